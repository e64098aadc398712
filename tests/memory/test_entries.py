"""The memory as a value: merged, taken, weighted; and what may not be merged."""

import dataclasses

import pytest
import torch

from comfyui_exemplar.memory.entries import ColorMemory, empty, merged
from comfyui_exemplar.memory.palette import Palette
from comfyui_exemplar.memory.writing import from_references

from . import naive


def written(count=1, seed=0, **more):
    return from_references(naive.features(count, seed=seed), naive.chroma(count, seed=seed), **more)


def test_merged_has_all_entries_and_counts_sources_on():
    one, two = written(2, names=("a", "b")), written(1, seed=1, names=("c",))
    both = one.merged(two)
    assert len(both) == len(one) + len(two) and both.sources == ("a", "b", "c")
    assert torch.equal(both.source, torch.cat([one.source, two.source + 2]))
    assert torch.equal(both.chroma, torch.cat([one.chroma, two.chroma]))
    assert torch.equal(both.keys.floats(), torch.cat([one.keys.floats(), two.keys.floats()]))


def test_memory_grows_with_its_references_and_no_faster():
    assert written(4).nbytes == 4 * written(1).nbytes


def test_a_palette_merges_with_anything():
    palette = empty(palettes=(Palette(torch.tensor([[40.0, 0.0]])),))
    one = written()
    for both in (palette.merged(one), one.merged(palette)):
        assert len(both) == len(one) and both.palettes == palette.palettes and both.made == one.made
    assert merged([palette, palette]).made is None and len(merged([palette, palette]).palettes) == 2


def test_entries_are_taken_with_all_that_belongs_to_them():
    memory = written(3)
    rows = torch.tensor([100, 3, 50])
    some = memory.take(rows)
    assert torch.equal(some.source, memory.source[rows]) and some.sources == memory.sources
    assert torch.equal(some.keys.floats(), memory.keys.floats()[rows])
    left = memory.without_entries([1])
    assert set(left.source.tolist()) == {0, 2} and memory.without_entries([]) is memory


def test_weighted():
    memory = written()
    assert memory.weighted(1) is memory
    assert torch.equal(memory.weighted(3).weight, memory.weight * 3)
    for wrong in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="expected a number above 0"):
            memory.weighted(wrong)


def test_another_precision_and_back():
    memory = written(precision="float32")
    assert memory.in_precision("float32") is memory
    assert memory.in_precision("int8").keys.precision == "int8"


def test_what_was_made_otherwise_is_refused():
    one = written(maker="here")
    other = from_references(naive.features(fingerprint="other"), naive.chroma(), maker="there")
    with pytest.raises(ValueError, match=r"found a memory of the model there \(other\), expected one of here \(toy\)"):
        one.merged(other)
    with pytest.raises(ValueError, match=r"context 0\.5.*expected .*context 0;"):
        one.merged(written(context=0.5))
    deeper = dataclasses.replace(one.made, spaces=one.made.spaces[:2])
    with pytest.raises(ValueError, match=r"output\.5 \(4\) at sigma 0\.1"):
        one.made.check(deeper)
    with pytest.raises(ValueError, match="found none"):
        merged([])


def test_broken_values_are_refused():
    memory = written()
    with pytest.raises(ValueError, match="found 48 keys beside"):
        dataclasses.replace(memory, chroma=memory.chroma[1:])
    with pytest.raises(ValueError, match="without weight"):
        dataclasses.replace(memory, weight=memory.weight * 0)
    with pytest.raises(ValueError, match="NaN"):
        dataclasses.replace(memory, chroma=memory.chroma * float("nan"))
    with pytest.raises(ValueError, match="0 keys"):
        ColorMemory(memory.made, None, torch.zeros(0, 2), torch.zeros(0), torch.zeros(0, dtype=torch.long))
