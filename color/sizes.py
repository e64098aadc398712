"""The sizes that networks work at."""

from __future__ import annotations

import math

from torch import Tensor


def working_size(height: int, width: int, resolution: int, multiple: int, factor: int) -> tuple[int, int]:
    """Size the model works at: the area of a ``resolution`` square in the picture's own aspect ratio.

    Sides are rounded to ``multiple``, with which no level of the UNet has to round; at the pictures' own size
    (``resolution`` 0) only to the autoencoder's ``factor``. The small stretch that this means is undone when chroma is
    taken back to the picture's size. No side is below ``multiple``.
    """
    scale = resolution / math.sqrt(height * width) if resolution else 1.0
    step = multiple if resolution else factor
    height, width = (max(multiple, round(side * scale / step) * step) for side in (height, width))
    return height, width


def size_of(pictures: Tensor) -> tuple[int, int]:
    """(height, width) of pictures (B, H, W, ...)."""
    return pictures.shape[1], pictures.shape[2]
