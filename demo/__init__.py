"""The embedded models: where their files are.

``model.safetensors`` is a diffusion model, ``lcad.safetensors`` one for color from words; the headers of both carry
their configuration (``files.headers``, ``networks.embedded``). ``ddcolor.safetensors`` and ``deadiff.safetensors`` are
files like the published ones, only small (``networks.ddcolor.load``, ``networks.deadiff.load``).
"""

from __future__ import annotations

from pathlib import Path

#: Side in pixels of the squares that the embedded DDColor was trained on.
DDCOLOR_SIDE = 128
#: The same of the embedded L-CAD.
LCAD_SIDE = 128


def model_path() -> Path:
    """Where the embedded model's file is installed."""
    return Path(__file__).resolve().parent / "model.safetensors"


def ddcolor_path() -> Path:
    """Where the embedded DDColor's file is installed."""
    return Path(__file__).resolve().parent / "ddcolor.safetensors"


def lcad_path() -> Path:
    """Where the embedded L-CAD's file is installed."""
    return Path(__file__).resolve().parent / "lcad.safetensors"


def deadiff_path() -> Path:
    """Where the embedded model's DEADiff adapter is installed."""
    return Path(__file__).resolve().parent / "deadiff.safetensors"
