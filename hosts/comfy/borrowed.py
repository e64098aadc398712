"""Networks that ComfyUI has loaded, as modules of their own that autograd can go through.

ComfyUI runs nodes in inference mode, and a tensor that was made there cannot be saved for a backward pass. That holds
for the tensor, not for its memory: another tensor around the same memory can be saved. So what is learned through has
modules, states and options of its own, and the weights are those that ComfyUI has loaded, patches (LoRA) applied. None
are copied, and the MODEL and the CLIP that came in are not touched.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import comfy.model_management
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

#: Whether the node that asked for gradients runs in inference mode, as ComfyUI runs its nodes; None without gradients.
_INFERENCE: ContextVar[bool | None] = ContextVar("_INFERENCE", default=None)


@contextmanager
def gradients() -> Iterator[None]:
    """Inside, tensors are made that can be differentiated, whatever mode the node runs in."""
    before = _INFERENCE.set(_outside())
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        _INFERENCE.reset(before)


@contextmanager
def as_the_node_runs() -> Iterator[None]:
    """Inside :func:`gradients`: the mode outside of it, for what ComfyUI does with models and results of its own."""
    with torch.inference_mode(_outside()), torch.no_grad():
        yield


def _outside() -> bool:
    found = _INFERENCE.get()
    return torch.is_inference_mode_enabled() if found is None else found


class BorrowedNetworks:
    """Networks of several ModelPatchers, all of which are needed at once. It lives as long as what is learned.

    Weights are held from :meth:`load` until :meth:`let_go`. Meanwhile ComfyUI must load nothing else: what it then
    moves out would stay on the device, held here.

    :ivar room: bytes that are needed beside the weights.
    """

    def __init__(self) -> None:
        self.room = 0
        self._networks: list[_Borrowed] = []
        self._held = False

    def __enter__(self) -> BorrowedNetworks:
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go()

    def add(self, patcher: Any) -> nn.Module:
        """The frozen network of a ModelPatcher, on its load device; the others stay with it.

        :raises ValueError: weights that are paged in and out, by a loader that does not say how to read them again.
        """
        network = _Borrowed(_unpaged(patcher))
        self._networks.append(network)
        self._held = False
        self.load()
        return network.module

    def load(self) -> None:
        """Have the weights of all of them at hand; where they are already, nothing happens."""
        if self._held:
            return
        mm = comfy.model_management
        patchers = [network.patcher for network in self._networks]
        # under --novram weights stay where they wait, and are copied below
        copied = sum(p.model_size() for p in patchers) if mm.vram_state == mm.VRAMState.NO_VRAM else 0
        with as_the_node_runs():
            mm.load_models_gpu(patchers, memory_required=self.room + copied, force_full_load=True)
        for network in self._networks:
            network.take()
        self._held = True

    def let_go(self) -> None:
        """Hold no weights any more, so that ComfyUI can move them."""
        self._held = False
        for network in self._networks:
            network.let_go()


class _Borrowed:
    """One network and the ModelPatcher whose weights it has.

    :ivar module: what learning goes through.
    """

    module: nn.Module

    def __init__(self, patcher: Any) -> None:
        self.patcher = patcher
        self._weights: dict[str, nn.Parameter] = {}

    @torch.inference_mode(False)
    @torch.no_grad()
    def take(self) -> None:
        """Take the weights as they are loaded now; the first time make the module."""
        found = {name: self._shared(weight) for name, weight in self._shareable()}
        if self._weights:
            for name, weight in found.items():
                self._weights[name].data = weight
            return
        self._weights = {name: nn.Parameter(weight, requires_grad=False) for name, weight in found.items()}
        base = self.patcher.model
        memo: dict[int, Any] = {id(weight): self._weights[name] for name, weight in self._shareable()}
        for name in ("model_config", "latent_format"):
            if (part := getattr(base, name, None)) is not None:
                memo[id(part)] = part
        if getattr(base, "current_patcher", None) is not None:
            memo[id(base.current_patcher)] = None
        self.module = copy.deepcopy(base, memo).to(self.patcher.load_device).eval().requires_grad_(False)

    @torch.inference_mode(False)
    def let_go(self) -> None:
        for weight in self._weights.values():
            weight.data = torch.empty(0, dtype=weight.dtype, device=weight.device)

    def _shareable(self) -> list[tuple[str, nn.Parameter]]:
        """Weights by name; those that are several tensors in one (quantized) are left to the copy."""
        return [item for item in self.patcher.model.named_parameters() if not is_traceable_wrapper_subclass(item[1])]

    def _shared(self, weight: Tensor) -> Tensor:
        """The same numbers on the load device, as a tensor that autograd can save."""
        device = self.patcher.load_device
        if weight.device != device:
            return weight.to(device)
        return torch.empty(0, dtype=weight.dtype, device=device).set_(weight.detach())


def _unpaged(patcher: Any) -> Any:
    """The same model with weights that stay where they are: what is paged in and out cannot be held."""
    if (
        not getattr(patcher, "is_dynamic", bool)()
        or "disable_dynamic" not in inspect.signature(patcher.clone).parameters
    ):
        return patcher
    if getattr(patcher, "cached_patcher_init", None) is None:
        raise ValueError(
            f"This {type(patcher.model).__name__} is kept in dynamic VRAM by a loader that does not say how it is "
            "read again, which learning needs: use ComfyUI's own loader, or start ComfyUI with "
            "--disable-dynamic-vram."
        )
    return patcher.clone(disable_dynamic=True)
