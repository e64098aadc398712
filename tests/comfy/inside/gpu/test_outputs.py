"""Where what nodes give lies: in main memory, whose cache of outputs ComfyUI watches, and not on the device."""

import pytest
import torch

from ..work import RUNS

#: Objects that own their tensors' places: models and networks, which ComfyUI moves, and what it is told of by itself.
_MANAGED = ("ModelPatcher", "CLIP", "VAE", "CFGGuider", "ControlGuider", "StepLimitedGuider")


def tensors(value, seen):
    """Every tensor of what a node gave, however deep, but for models."""
    if id(value) in seen or isinstance(value, (str, bytes, type, torch.nn.Module)) or callable(value):
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from tensors(each, seen)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for each in value:
            yield from tensors(each, seen)
    if hasattr(value, "patcher") or any(base.__name__ in _MANAGED for base in type(value).__mro__):
        return
    if hasattr(value, "__dict__") and not isinstance(value, torch.Tensor):
        yield from tensors(vars(value), seen)


def places(made):
    return {tensor.device.type for tensor in tensors(made, set())}


@pytest.mark.parametrize("node", RUNS)
def test_in_main_memory(kit, node):
    assert places(RUNS[node](kit, 2)) <= {"cpu"}
