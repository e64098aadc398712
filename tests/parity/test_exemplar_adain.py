"""Recorded numbers of latent AdaIN (Kosugi 2025)."""

import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file

from comfyui_exemplar.color import adain, match_mean_std


def parity_dir(name):
    return Path(os.environ.get("EXEMPLAR_PARITY_DIR", Path(__file__).parent / "data")) / name


def test_adain():
    folder = parity_dir("exemplar")
    manifest = json.loads((folder / "manifest.json").read_text())
    tolerance = manifest["suggested_max_abs_tolerance"]["adain"]
    tensors = load_file(folder / "adain.safetensors")
    assert set(manifest["files"]["adain.safetensors"]["tensors"]) == set(tensors)
    cases = {name.split(".")[0] for name in tensors}
    assert len(cases) >= 2
    for case in cases:
        content, style, expected = (tensors[f"{case}.{part}"] for part in ("content", "style", "out"))
        found = adain(content, style)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= tolerance, case
        # The biased deviation, a typical mistake, must not pass.
        biased = match_mean_std(content, style, (2, 3))
        assert content.shape == style.shape or (biased - expected).abs().max() > tolerance, case
        # Statistics are each picture's own: a batch gives what single pictures give.
        assert torch.equal(adain(content.repeat(2, 1, 1, 1), style)[1:], found), case
