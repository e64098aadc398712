"""A lookup on a device: it sends entries once, and gives what the CPU gives."""

import torch

from comfyui_exemplar.memory.features import joined_keys, joined_queries
from comfyui_exemplar.memory.lookup import look_up, shortlisted
from comfyui_exemplar.memory.writing import from_references

from ..fixtures.pretended_gpu import PretendedGPU, to_gpu
from . import naive


def on_gpu(features):
    sides = {name: tuple(to_gpu(t) for t in getattr(features, name)) for name in ("queries", "keys")}
    return type(features)(features.fingerprint, features.spaces, **sides, grids=features.grids)


def test_the_same_as_on_the_cpu():
    asking, answering = naive.features(seed=1), naive.features(2, seed=2)
    memory = from_references(answering, naive.chroma(2), context=0.5)
    expected = look_up(joined_queries(asking, context=0.5)[0], memory)
    some = shortlisted(joined_queries(asking, context=0.5)[0], asking.grid, memory, 20)
    with PretendedGPU():
        queries = joined_queries(on_gpu(asking), context=0.5)[0]
        written = from_references(on_gpu(answering), naive.chroma(2), context=0.5)
        found = look_up(queries, memory)
        chosen = shortlisted(queries, asking.grid, memory, 20)
        assert joined_keys(on_gpu(answering)).device == queries.device != torch.device("cpu")
    torch.testing.assert_close(found.chroma, expected.chroma)
    torch.testing.assert_close(found.spread, expected.spread)
    assert torch.equal(found.best, expected.best) and torch.equal(chosen.chroma, some.chroma)
    assert torch.equal(written.keys.data, memory.keys.data) and torch.equal(written.chroma, memory.chroma)
