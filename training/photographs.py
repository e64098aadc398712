"""A few photographs with permissive licenses, so that a real photograph is not foreign to the model.

Nobody photographs a thing twice with the same colors, so a photograph is its own reference: two crops of it, mirrored
and lit differently (scenes.py). They are split by photograph or, for panoramas, by place.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 256
CUBE_MAPS = "online-3d-viewer"
PLACES = {"train": ("citadella", "ice_river", "maskonaive", "park", "teide"), "test": ("fishermans_bastion",)}
_WALLS = ("posx", "negx", "posz", "negz")
# folder below the packages folder, file, split
SINGLE = (
    ("scikit-image", "skimage/data/rocket.jpg", "train"),
    ("scikit-learn", "sklearn/datasets/images/china.jpg", "train"),
    ("scikit-learn", "sklearn/datasets/images/flower.jpg", "train"),
    ("scikit-image", "skimage/data/coffee.png", "test"),
    ("scikit-image", "skimage/data/chelsea.png", "test"),
)


def read(packages: Path, split: str) -> np.ndarray:
    """(n, SIDE, SIDE, 3) uint8, squares cut from the photographs of "train" or "test"."""
    return np.stack([np.asarray(square) for path in _paths(packages, split) for square in _squares(path)])


def _paths(packages: Path, split: str) -> Iterator[Path]:
    for place in PLACES[split]:
        for wall in _WALLS:
            yield packages / CUBE_MAPS / "website" / "assets" / "envmaps" / place / f"{wall}.jpg"
    for package, file, of in SINGLE:
        if of == split:
            yield packages / package / file


def _squares(path: Path) -> Iterator[Image.Image]:
    """One square, or two that overlap if the photograph is clearly longer than high."""
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    side, width = min(picture.size), picture.width
    for left in (0, width - side) if width > 1.2 * side else ((width - side) // 2,):
        yield picture.crop((left, 0, left + side, side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
