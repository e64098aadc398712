"""Masks from picture files."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor


def load_mask(path: str | Path) -> Tensor:
    """(1, H, W) in 0..1, turned upright.

    :raises ValueError: not a readable mask.
    :raises FileNotFoundError: no such file.
    """
    from .pictures import load_picture

    return load_picture(Path(path)).mean(-1)
