"""Memory under ComfyUI's model manager."""

from __future__ import annotations

import comfy.model_management
import torch
from torch import Tensor

from ...color.batches import let_go, ran_out


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out; if so, what can be freed is freed."""
    if not ran_out(error) and not comfy.model_management.is_oom(error):
        return False
    let_go(error)
    comfy.model_management.soft_empty_cache()
    return True


def compute_device() -> torch.device:
    """Where a node without a MODEL computes on kept features, wherever those lie."""
    return comfy.model_management.get_torch_device()


def resting_place() -> torch.device:
    """Where ComfyUI keeps what nodes give: main memory, or under ``--gpu-only`` the device."""
    return comfy.model_management.intermediate_device()


def results(*tensors: Tensor) -> tuple[Tensor, ...]:
    """What a node gives, at its :func:`resting_place`."""
    return tuple(tensor.to(resting_place()) for tensor in tensors)
