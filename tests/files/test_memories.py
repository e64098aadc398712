"""Color memories on disk: what was saved comes back, and what is no memory is refused by name."""

import dataclasses
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from comfyui_exemplar.files.memories import KEY, load_memory, save_memory
from comfyui_exemplar.memory.entries import empty
from comfyui_exemplar.memory.palette import Palette
from comfyui_exemplar.memory.writing import from_references, from_strokes

from ..memory import naive


def full(precision="float16"):
    references = from_references(
        naive.features(2),
        naive.chroma(2),
        weights=(1.0, 2.0),
        names=("a", "b"),
        precision=precision,
        context=0.5,
        maker="Toy",
    )
    place = torch.zeros(12, 16, dtype=torch.bool)
    place[2:6, 4:9] = True
    strokes = from_strokes(
        naive.features(seed=3), naive.chroma()[0], place, torch.full((12, 16), 40.0), precision=precision, context=0.5
    )
    palette = Palette(torch.tensor([[40.0, 0.0], [0.0, 20.0]]), torch.tensor([10.0, 80.0]), torch.eye(4))
    return references.merged(strokes, empty(palettes=(palette, Palette(torch.tensor([[9.0, 9.0]])))))


def same(one, other):
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, torch.Tensor):
            assert torch.equal(a, b) and a.dtype == b.dtype, field.name
        elif isinstance(a, tuple) and a and dataclasses.is_dataclass(a[0]):
            for left, right in zip(a, b, strict=True):
                same(left, right)
        elif dataclasses.is_dataclass(a):
            same(a, b)
        else:
            assert a == b, field.name


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_there_and_back(tmp_path, precision):
    memory = full(precision)
    save_memory(tmp_path / "m.safetensors", memory)
    same(memory, load_memory(tmp_path / "m.safetensors"))
    same(memory, load_memory(tmp_path / "m.safetensors", memory.made))


def test_a_palette_alone_and_a_part_of_a_memory(tmp_path):
    palette = empty(palettes=(Palette(torch.tensor([[40.0, 0.0]])),))
    save_memory(tmp_path / "m.safetensors", palette)
    same(palette, load_memory(tmp_path / "m.safetensors", full().made))
    part = full().take(torch.arange(3))
    save_memory(tmp_path / "m.safetensors", part)  # its own file may be replaced
    same(part, load_memory(tmp_path / "m.safetensors"))
    assert (tmp_path / "m.safetensors").stat().st_size < 10_000


def test_another_maker_s_file_stays(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"m\.safetensors"):
        save_memory(tmp_path / "m.safetensors", full())
    assert list(load_file(tmp_path / "m.safetensors")) == ["x"]


def test_no_memory(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="is no color memory"):
        load_memory(tmp_path / "m.safetensors")
    (tmp_path / "n.safetensors").write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"n\.safetensors"):
        load_memory(tmp_path / "n.safetensors")
    with pytest.raises(FileNotFoundError):
        load_memory(tmp_path / "none.safetensors")


def test_of_another_model(tmp_path):
    save_memory(tmp_path / "m.safetensors", full())
    other = dataclasses.replace(full().made, fingerprint="abc", name="Other")
    with pytest.raises(
        ValueError,
        match=r"m\.safetensors: found a memory of the model Toy \(toy\), expected one of "
        r"Other \(abc\)",
    ):
        load_memory(tmp_path / "m.safetensors", other)


def rewritten(path, header=None, tensors=None):
    with safe_open(path, "pt") as stored:
        kept = json.loads(stored.metadata()[KEY])
    kept_tensors = load_file(path)
    kept |= header or {}
    kept_tensors |= tensors or {}
    save_file(
        {n: t.contiguous() for n, t in kept_tensors.items() if t is not None},
        path,
        metadata={KEY: json.dumps({n: v for n, v in kept.items() if v is not None})},
    )


@pytest.mark.parametrize(
    ("header", "tensors", "message"),
    [
        ({"format": 2}, {}, "of form 2, this version reads 1"),
        ({"context": None}, {}, "has no .context"),
        ({"context": 7}, {}, "between 0 and 1"),
        ({"widths": [8, 4]}, {}, "several lengths"),
        ({"widths": [8, 4, 5]}, {}, "expected 17 channels"),
        ({"sources": ["a"]}, {}, "beyond the 1"),
        ({"marks": [9]}, {}, "beyond the 3"),
        ({"palettes": 3}, {}, "no tensor .palettes.2.chroma."),
        ({}, {"keys": None}, "no tensor .keys."),
        ({}, {"keys": torch.full((102, 16), float("nan"))}, "NaN"),
        ({}, {"keys": torch.zeros(102, 16, dtype=torch.int8)}, "no tensor .factors."),
        ({}, {"keys": torch.zeros(5, 16)}, "found 5 keys beside"),
        ({}, {"weight": -torch.ones(102)}, "without weight"),
        ({}, {"chroma": torch.full((102, 2), float("inf"))}, "NaN"),
        ({}, {"source": torch.full((102,), 99)}, "beyond the 3"),
        ({}, {"marks.0.place": torch.zeros(12, 16, dtype=torch.bool)}, "cover nothing"),
    ],
)
def test_damaged(tmp_path, header, tensors, message):
    path = tmp_path / "m.safetensors"
    save_memory(path, full())
    assert len(full()) == 102
    rewritten(path, header, tensors)
    with pytest.raises(ValueError, match=message) as found:
        load_memory(path)
    assert str(path) in str(found.value)
