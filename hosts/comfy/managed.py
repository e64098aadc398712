"""Networks of the pack's own under ComfyUI's model manager: loaded, offloaded and counted like any MODEL."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import torch
from torch import nn

from .memory import out_of_memory
from .runs import stop_if_canceled


def managed(network: nn.Module, load_device: torch.device, offload_device: torch.device, *, paged: bool = False) -> Any:
    """A patcher around a network that is on the CPU.

    :param paged: whether the host may keep weights where it likes and fetch them layer by layer ("dynamic VRAM"), which
        its own layers allow. A network of plain layers would be copied as a whole at every load instead.
    """
    plain = comfy.model_patcher.ModelPatcher
    kind = getattr(comfy.model_patcher, "CoreModelPatcher", plain) if paged else plain
    return kind(network, load_device=load_device, offload_device=offload_device)


def reloadable(patcher: Any, factory: Callable[..., Any], *arguments: Any) -> None:
    """Tell a patcher how the same model is read again, as ComfyUI's own loaders do.

    Hosts ask for it where a clone needs weights of its own: to learn through a paged model, for prompts with hooks, to
    compile it, on a second GPU.

    :param factory: ``factory(*arguments, disable_dynamic=False)`` gives a fresh patcher; with ``disable_dynamic`` one
        whose weights stay where they are.
    """
    patcher.cached_patcher_init = (factory, arguments)


def clip_options(disable_dynamic: bool) -> dict[str, bool]:
    """How ``comfy.sd.CLIP`` is told to leave weights where they are, by hosts that know of it."""
    known = "disable_dynamic" in inspect.signature(comfy.sd.CLIP.__init__).parameters
    return {"disable_dynamic": disable_dynamic} if known else {}


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
        """Where its weights are, and so where it runs once loaded: under ``--novram`` they stay where they wait."""
        return next(self.network.parameters()).device

    def out_of_memory(self, error: Exception) -> bool:
        """Whether an error says that memory ran out; if so, what can be freed is freed."""
        return out_of_memory(error)

    def load(self, working_bytes: int) -> None:
        """Have it on its device, with room for what it needs on the way. Ends the run where the user canceled it.

        All of it: its layers are plain ones, which ComfyUI can't fetch one by one.
        """
        stop_if_canceled()
        comfy.model_management.load_models_gpu([self.patcher], memory_required=working_bytes, force_full_load=True)
