"""Bytes by shapes: the real code runs on tensors without values, and what is alive on each device is counted.

Torch's FakeTensorMode gives every operation's result its shape, dtype and device, and computes nothing; so a machine
without a GPU, and with little memory, can say what a run holds on one. An attention counts as a fused kernel that keeps
its output (and for a backward pass its inputs and a number a row). What an allocator rounds up, and what kernels need
for themselves within an operation, is not in it. (The pretended GPU of the tests has values, so it shows what is right
and what waits; here whole networks run that no memory holds.)
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("counted")
_MODULE = torch.get_device_module("counted")
_MODULE.device_count = lambda: 0  # what torch does for every accelerator there is, it leaves alone here
_MODULE.get_amp_supported_dtype = lambda: [torch.float16, torch.bfloat16]
#: A device that is nowhere.
DEVICE = torch.device("counted", 0)


class Bytes(TorchDispatchMode):
    """Bytes of the tensors that are alive, by kind of device.

    :ivar now: alive now; :ivar most: the most since :meth:`forget`.
    """

    def __init__(self, mode: FakeTensorMode) -> None:
        super().__init__()
        self._mode = mode
        self.now: dict[str, int] = {}
        self.most: dict[str, int] = {}
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(kwargs.get("device"), "type", None) == DEVICE.type:  # values are left behind on the way there
            args = tree_map(lambda leaf: self._mode.from_tensor(leaf) if _is_real(leaf) else leaf, args)
        made = func(*args, **kwargs)
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor)
        return made

    def _count(self, tensor: Tensor) -> None:
        storage, kind = tensor.untyped_storage(), tensor.device.type
        key, size = storage._cdata, storage.nbytes()
        if key not in self._seen:
            self._seen.add(key)
            self.now[kind] = self.now.get(kind, 0) + size
            self.most[kind] = max(self.most.get(kind, 0), self.now[kind])
            weakref.finalize(storage, self._gone, key, size, kind)

    def _gone(self, key: int, size: int, kind: str) -> None:
        self._seen.discard(key)
        self.now[kind] -= size

    def held(self, device: torch.device = DEVICE) -> int:
        """Bytes alive on a device."""
        return self.now.get(device.type, 0)

    def peak(self, device: torch.device = DEVICE) -> int:
        """The most since :meth:`forget`."""
        return max(self.most.get(device.type, 0), self.held(device))

    def forget(self) -> None:
        """Count the peaks anew."""
        self.most = dict(self.now)


@contextmanager
def counted() -> Iterator[Bytes]:
    """Within this context nothing has values but what Python hands to torch as numbers."""
    with ExitStack() as stack:
        # the name and not a mode: a checkpointed layer is computed again where modes of functions are off
        stack.enter_context(patch.object(F, "scaled_dot_product_attention", _fused))
        stack.enter_context(_Values())
        mode = stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield stack.enter_context(Bytes(mode))


def _is_real(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and not isinstance(leaf, FakeTensor)


class _Values(TorchFunctionMode):
    """What is made of numbers on the CPU has values, since hosts ask for their levels."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.tensor and kwargs.get("device") == DEVICE:
            return torch.zeros(torch.Size(_sides(args[0])), dtype=kwargs.get("dtype"), device=DEVICE)
        if _has_values(func, tree_leaves((args, kwargs))):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        return func(*args, **kwargs)


def _has_values(func: Callable[..., Any], given: list[Any]) -> bool:
    """Whether a function works on tensors with values alone, or makes one of numbers, and leaves it on the CPU."""
    tensors = [leaf for leaf in given if isinstance(leaf, Tensor)]
    moved = any(isinstance(leaf, torch.device) and leaf.type == DEVICE.type for leaf in given)
    if moved or any(isinstance(tensor, FakeTensor) for tensor in tensors):
        return False
    return bool(tensors) or func in (torch.tensor, torch.as_tensor, torch.linspace, torch.arange)


def _sides(numbers: Any) -> list[int]:
    """The shape of nested lists of numbers."""
    return [len(numbers), *_sides(numbers[0])] if isinstance(numbers, (list, tuple)) else []


def _fused(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    """The head of torch's attention."""
    return _FusedAttention.apply(query, key, value)


class _FusedAttention(torch.autograd.Function):
    """Shapes of an attention that builds no map."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        batch, heads, tokens, _ = query.shape
        # heads are split by a view of the tokens, and fused kernels answer in their layout
        out = query.new_empty(batch, tokens, heads, value.shape[-1]).transpose(1, 2)
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx, _gradient: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])
