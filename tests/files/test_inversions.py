"""Inversions on disk: what was saved comes back bit for bit, and what is damaged or another's is refused by name."""

import dataclasses
import json
import random

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from comfyui_exemplar.attention.bank import FeatureBank
from comfyui_exemplar.attention.layers import Layer, LayerInfo
from comfyui_exemplar.diffusion.inversion import Inversion
from comfyui_exemplar.diffusion.schedule import inversion_plan, sigmas_from_alphas
from comfyui_exemplar.files.inversions import (
    KEY,
    Inversions,
    load_inversions,
    save_inversions,
    save_new_inversions,
)

TABLE = sigmas_from_alphas(torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0))
INFOS = (
    LayerInfo(Layer("input", 1), 8, 2, 1),
    LayerInfo(Layer("output", 3), 16, 4, 2),
    LayerInfo(Layer("output", 3, 1), 16, 4, 2),
    LayerInfo(Layer("output", 8), 8, 2, 1),
)


def inversion(letters="kv", dtype=torch.float16, size=(6, 5), pictures=1, seed=0, convention="consistent", kept=True):
    generator = torch.Generator().manual_seed(seed)
    plan = inversion_plan(TABLE, 20, 3, convention)
    bank = FeatureBank()
    for sigma in reversed(plan.kept_sigmas) if kept else ():  # as the way up meets them
        for info in INFOS[1:]:
            grid = info.grid(size)
            shape = (pictures, grid[0] * grid[1], info.channels)
            made = {letter: torch.randn(shape, generator=generator).to(dtype) for letter in letters}
            bank.put(sigma, info.layer, grid, **made)
    trajectory = torch.randn(len(plan.levels), pictures, 4, *size, generator=generator)
    return Inversion(plan, trajectory, bank, "SD15-0123456789ab", INFOS, 0.25)


def pair(**chosen):
    return Inversions((inversion(**chosen),), (inversion("k", seed=1, **chosen),))


def same(one, other):
    assert one.plan == other.plan and one.model == other.model and one.layers == other.layers
    assert one.chroma == other.chroma
    assert torch.equal(one.trajectory, other.trajectory) and one.trajectory.dtype == other.trajectory.dtype
    assert one.bank.levels == other.bank.levels and one.bank.layers == other.bank.layers
    a, b = list(one.bank.items()), list(other.bank.items())
    assert [each[:3] for each in a] == [each[:3] for each in b]
    assert all(torch.equal(x[3], y[3]) and x[3].dtype == y[3].dtype for x, y in zip(a, b, strict=True))
    assert all(one.bank.grid(layer) == other.bank.grid(layer) for layer in one.bank.layers)


def all_same(one, other):
    assert len(one.color) == len(other.color) and len(one.gray) == len(other.gray)
    for a, b in zip(one.all, other.all, strict=True):
        same(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("convention", ["consistent", "official", "diffusers"])
def test_there_and_back(tmp_path, dtype, convention):
    made = pair(dtype=dtype, convention=convention, pictures=2)
    save_inversions(tmp_path / "i.safetensors", made)
    all_same(made, load_inversions(tmp_path / "i.safetensors"))


def test_alone_without_features_and_of_several_sizes(tmp_path):
    path = tmp_path / "i.safetensors"
    for made in (
        Inversions((inversion("qkv"),)),
        Inversions((dataclasses.replace(inversion(kept=False), chroma=None),)),
        Inversions(
            (inversion(), inversion(size=(4, 8), pictures=3)), (inversion("k"), inversion("k", size=(4, 8), pictures=3))
        ),
    ):
        save_inversions(path, made)  # its own file may be replaced
        all_same(made, load_inversions(path))


def test_a_part_is_written_alone_and_a_view_as_it_is(tmp_path):
    """Some of many pictures: what they are a part of is not written."""
    many = inversion(pictures=50)
    one = many.take(range(7, 8))
    save_inversions(tmp_path / "i.safetensors", Inversions((one,)))
    assert (tmp_path / "i.safetensors").stat().st_size < one.trajectory.nbytes + one.bank.nbytes + 20_000
    all_same(Inversions((one,)), load_inversions(tmp_path / "i.safetensors"))
    turned = dataclasses.replace(one, trajectory=one.trajectory.transpose(-1, -2).contiguous().transpose(-1, -2))
    save_inversions(tmp_path / "i.safetensors", Inversions((turned, turned)))  # the same memory twice, too
    all_same(Inversions((turned, turned)), load_inversions(tmp_path / "i.safetensors"))


def test_the_size_is_that_of_the_numbers(tmp_path):
    """Levels x letters x tokens x channels x bytes of a number, and the latents at every level beside them."""
    made = pair(dtype=torch.float16)
    save_inversions(tmp_path / "i.safetensors", made)
    tokens = 2 * (3 * 3 * 16) + 6 * 5 * 8
    features = 3 * (2 + 1) * tokens * 2
    assert made.nbytes == features + 2 * 4 * 4 * 6 * 5 * 4
    assert 0 < (tmp_path / "i.safetensors").stat().st_size - made.nbytes < 8_000


def test_another_maker_s_file_stays_and_no_new_one_replaces_any(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "i.safetensors")
    with pytest.raises(ValueError, match=r"i\.safetensors is there already"):
        save_inversions(tmp_path / "i.safetensors", pair())
    assert list(load_file(tmp_path / "i.safetensors")) == ["x"]
    first, second = (save_new_inversions(tmp_path, "n", 1, pair()) for _ in range(2))
    assert (first.name, second.name) == ("n_00001_.safetensors", "n_00002_.safetensors")


def test_no_inversion(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "i.safetensors")
    with pytest.raises(ValueError, match="holds no inversion: give a file that Save Inversion"):
        load_inversions(tmp_path / "i.safetensors")
    (tmp_path / "n.safetensors").write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"n\.safetensors"):
        load_inversions(tmp_path / "n.safetensors")
    with pytest.raises(FileNotFoundError):
        load_inversions(tmp_path / "none.safetensors")


def test_what_goes_into_one_file():
    other = dataclasses.replace(inversion("k"), model="SDXL-0123456789ab")
    with pytest.raises(ValueError, match=r"gray_inversion: found one of another model \(SDXL"):
        Inversions((inversion(),), (other,))
    with pytest.raises(ValueError, match=r"found 1 inversion\(s\) and 2 without color"):
        Inversions((inversion(),), (inversion(), inversion()))
    with pytest.raises(ValueError, match=r"found 0 inversion\(s\)"):
        Inversions(())


def rewritten(path, header=None, first=None, tensors=None):
    """The file with other fields, of the whole and of its first inversion, and other tensors; None takes one out."""
    with safe_open(path, "pt") as stored:
        kept = json.loads(stored.metadata()[KEY])
    kept |= header or {}
    if first is not None:
        kept["inversions"][0] |= first
        kept["inversions"][0] = {n: v for n, v in kept["inversions"][0].items() if v is not None}
    found = load_file(path) | (tensors or {})
    save_file(
        {n: t.contiguous() for n, t in found.items() if t is not None},
        path,
        metadata={KEY: json.dumps({n: v for n, v in kept.items() if v is not None})},
    )


NAMES = ["output.3", "output.3.1", "output.8"]
KEPT = "0.kept.1.output.3.1.v"


@pytest.mark.parametrize(
    ("header", "first", "tensors", "message"),
    [
        ({"format": 2}, None, {}, "of form 2, this version reads 1"),
        ({"fingerprint": None}, None, {}, "has no .fingerprint"),
        ({"fingerprint": 7}, None, {}, "fingerprint is 7"),
        ({"layers": ["input.1"]}, None, {}, "several lengths for its layers"),
        ({"layers": ["input.1", "output.3", "output.3", "output.8"]}, None, {}, "named twice"),
        ({"layers": ["input.1", "output.3", "../output.3.1", "output.8"]}, None, {}, "a name such as output.8"),
        ({"heads": [2, 3, 4, 2]}, None, {}, "found 16 channels of output.3 for 3 heads"),
        ({"channels": [8, 16, 32, 8]}, None, {}, r"its k of output.3.1: .*expected floats \(1, 9, 32\)"),
        ({"gray": 2}, None, {}, r"found 0 inversion\(s\) and 2 without"),
        ({"gray": 3}, None, {}, r"found 0 inversion\(s\) and 2 without"),
        ({"inversions": []}, None, {}, "no list of inversions"),
        ({"inversions": None}, None, {}, "no list of inversions"),
        ({}, {"convention": "other"}, {}, "expected one of consistent, official, diffusers"),
        ({}, {"depth": 4}, {}, "do not go together at depth 4"),
        ({}, {"depth": 2.5}, {}, "whole"),
        ({}, {"levels": [0.0, 2.0, 1.0, 3.0]}, {}, "without levels that rise"),
        ({}, {"levels": [0.0, 1.0]}, {}, "found 2 levels, 3 reads"),
        ({}, {"sigmas": "1"}, {}, "expected a list"),
        ({}, {"chroma": "much"}, {}, "expected a number"),
        ({}, {"kept_at": [1.0, 2.0, 3.0]}, {}, r"kept features at 3 level\(s\)"),
        ({}, {"kept_at": [1.0]}, {}, "belongs to no inversion|kept features at 1 level"),
        ({}, {"kept": ["output.3", "output.3.1", "output.9"]}, {}, "kept of output.9"),
        ({}, {"kept": ["output.3", "output.3", "output.8"]}, {}, "named twice"),
        ({}, {"letters": ["kv", "kx", "kv"]}, {}, "found .kx. kept of output.3.1"),
        ({}, {"letters": ["kv", "kk", "kv"]}, {}, "found .kk. kept of output.3.1"),
        ({}, {"letters": ["kv", "k", "kv"]}, {}, "output.3.1.v., which belongs to no inversion"),
        ({}, {"letters": ["kv", "qkv", "kv"]}, {}, "no tensor .0.kept.0.output.3.1.q."),
        ({}, {"heights": [3, 3, 5]}, {}, r"of output.8: .*expected floats \(1, 25, 8\)"),
        ({}, {"heights": [3, 3, 0]}, {}, "heights.2. is 0"),
        ({}, {}, {KEPT: None}, f"no tensor .{KEPT}."),
        ({}, {}, {KEPT: torch.zeros(1, 8, 16)}, r"its v of output.3.1: found torch.float32 of shape \(1, 8, 16\)"),
        ({}, {}, {KEPT: torch.zeros(2, 9, 16)}, r"its v of output.3.1"),
        ({}, {}, {KEPT: torch.zeros(1, 9, 16, dtype=torch.int8)}, "found torch.int8"),
        ({}, {}, {KEPT: torch.full((1, 9, 16), float("nan"))}, "NaN, infinite or huge values in its features"),
        ({}, {}, {KEPT: torch.full((1, 9, 16), 1e9)}, "NaN, infinite or huge values in its features"),
        ({}, {}, {"0.trajectory": None}, "no tensor .0.trajectory."),
        ({}, {}, {"0.trajectory": torch.zeros(3, 1, 4, 6, 5)}, r"of shape \(3, 1, 4, 6, 5\)"),
        ({}, {}, {"0.trajectory": torch.zeros(4, 0, 4, 6, 5)}, r"of shape \(4, 0, 4, 6, 5\)"),
        ({}, {}, {"0.trajectory": torch.full((4, 1, 4, 6, 5), float("inf"))}, "NaN"),
        ({}, {}, {"2.trajectory": torch.zeros(1)}, "found the tensor .2.trajectory., which belongs to no inversion"),
    ],
)
def test_damaged(tmp_path, header, first, tensors, message):
    path = tmp_path / "i.safetensors"
    save_inversions(path, pair())
    rewritten(path, header, first, tensors)
    with pytest.raises(ValueError, match=message) as found:
        load_inversions(path)
    said = str(found.value)
    assert str(path) in said and said.count("again.") <= 1 and "\n" not in said


def test_cut_off_and_changed_bytes_never_end_otherwise(tmp_path):
    """Whatever happens to a file, it is read as it was, or refused with one line that names it."""
    path, draw = tmp_path / "i.safetensors", random.Random(5)
    save_inversions(path, pair())
    whole = path.read_bytes()
    head = int.from_bytes(whole[:8], "little") + 8
    refused = 0
    for turn in range(300):
        content = bytearray(whole)
        if turn % 3 == 0:
            del content[draw.randrange(len(content)) :]
        else:
            for _ in range(draw.randrange(1, 4)):
                content[draw.randrange(head if turn % 3 == 1 else len(content))] = draw.randrange(256)
        path.write_bytes(bytes(content))
        try:
            load_inversions(path)
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 150
