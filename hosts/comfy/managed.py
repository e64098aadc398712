"""Networks of the pack's own under ComfyUI's model manager: loaded, offloaded and counted like any MODEL."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch
from torch import nn


def patcher_class() -> type:
    """ComfyUI's patcher for modules that it does not know."""
    return getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)


def managed(network: nn.Module, load_device: torch.device, offload_device: torch.device) -> Any:
    """A patcher around a network that is on the CPU."""
    return patcher_class()(network, load_device=load_device, offload_device=offload_device)


class ManagedNetwork:
    """A network that ComfyUI loads before it runs.

    :param network: on the CPU.
    :param load_device: where it runs; ``offload_device``: where it waits.
    """

    def __init__(self, network: nn.Module, load_device: torch.device, offload_device: torch.device) -> None:
        self.patcher = managed(network, load_device, offload_device)

    @property
    def network(self) -> Any:
        return self.patcher.model

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.patcher.load_device

    def load(self, working_bytes: int) -> None:
        """Have it on its device, with room for what it needs on the way. Ends the run where the user canceled it.

        All of it: its layers are plain ones, which ComfyUI can't fetch one by one.
        """
        comfy.model_management.throw_exception_if_processing_interrupted()
        comfy.model_management.load_models_gpu([self.patcher], memory_required=working_bytes, force_full_load=True)
