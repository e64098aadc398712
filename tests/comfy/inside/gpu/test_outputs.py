"""Where what nodes give lies: in main memory, whose cache of outputs ComfyUI watches, and not on the device."""

import pytest
import torch

from comfyui_exemplar.pipelines import attention_map, confidence

from ....fixtures.pretended_gpu import DEVICE
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


def test_maps_are_computed_on_the_device(kit, monkeypatch):
    """Though the features that they are made of lie in main memory."""
    where = []

    def watched(function):
        def watch(q, k, *args):
            where.append((q.device, k.device))
            return function(q, k, *args)

        return watch

    for module, name in ((attention_map, "correspond"), (attention_map, "heat"), (confidence, "confidence")):
        monkeypatch.setattr(module, name, watched(getattr(module, name)))
    for node in ("ExemplarAttentionMap", "ExemplarConfidenceBlend"):
        assert places(RUNS[node](kit, 1)) == {"cpu"}
    assert len(where) > 4 and set(where) == {(DEVICE, DEVICE)}
