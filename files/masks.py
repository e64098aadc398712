"""Masks from picture files: 1 marks what is meant.

A mask's values are shares, not colors: neither profiles nor gamma are applied. They are read from

* the transparency where it varies: 1 is opaque;
* otherwise the gray of the file: white is 1, whatever its depth.

Labels (0 and 1 of 255), colors, and inks are refused, since each could mean several masks.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .pictures import decode, reading
from .profiles import floats
from .raster import Decoded, Raster, upright

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

#: Channels that differ by no more than this are gray that a JPEG file holds as color.
SAME = 8 / 255
#: Whole numbers up to this share of what the file could hold are no shares of 1: a mask is hardly ever this faint.
FAINT = 0.1
#: The same for masks of more values than inside and outside, which may be labels.
FAINT_STEPS = 0.25
#: More values than this are no labels.
MOST_LABELS = 64


def load_mask(path: str | Path) -> Tensor:
    """(1, H, W) in 0..1, upright. What a user should know is logged; a mask may be empty.

    :raises ValueError: not a readable picture, or not one that is a mask, with what was found.
    :raises FileNotFoundError: no such file.
    """
    import numpy as np

    with reading(path):
        decoded = decode(Path(path), "first")
    raster = decoded.rasters[0]
    notes = [note for note in decoded.notes if "sRGB" not in note]
    if decoded.pages > 1:
        notes.insert(0, f"{decoded.pages} pages, the first is read")
    alpha = raster.alpha
    if alpha is not None and alpha.min() < alpha.max():
        if _shows_a_picture(raster, alpha):
            notes.append("its transparency is the mask, its colors are not looked at")
        mask = alpha
    else:
        mask = _gray(raster, path)
        if not decoded.floating:
            _refuse_labels(mask, decoded, path)
    for note in notes:
        log.warning("%s: %s", path, note)
    mask = np.ascontiguousarray(upright(mask, raster.orientation), np.float32)
    return torch.from_numpy(mask.copy())[None]


def _gray(raster: Raster, path: str | Path) -> NDArray[Any]:
    """(H, W) float32 of a gray picture."""
    if raster.model not in ("gray", "rgb"):
        raise ValueError(f"{path} is a picture in {raster.model.upper()}, expected a gray mask; save it as gray.")
    samples = floats(raster.samples)
    if samples.shape[2] == 1:
        return samples[..., 0]
    apart = float((samples.max(-1) - samples.min(-1)).max())
    if apart > SAME:
        raise ValueError(
            f"{path} is a picture in color (channels up to {apart * 255:.0f} of 255 apart), expected gray or a "
            "mask in its transparency; save what is meant as white on black."
        )
    return samples.mean(-1)


def _refuse_labels(mask: NDArray[Any], decoded: Decoded, path: str | Path) -> None:
    """Refuse whole numbers that count areas instead of giving shares.

    :raises ValueError: they are labels.
    """
    import numpy as np

    most = 2**decoded.bits - 1
    high = float(mask.max())
    if high == 0 or decoded.bits == 1:
        return
    count = len(np.unique(mask))
    if high > (FAINT if count <= 2 else FAINT_STEPS) or count > MOST_LABELS:
        return
    value = round(high * most)
    said = f"{path} holds values up to {value} of {most}"
    if value == 1:
        raise ValueError(f"{said}: labels, or a mask that was not scaled; multiply them by {most}.")
    if decoded.bits > 8 and value == 255:
        raise ValueError(f"{said}: 8-bit values in {decoded.bits} bits; multiply them by {most // 255}.")
    raise ValueError(f"{said}: labels, or a mask too faint to use; save the area that is meant as {most} on 0.")


def _shows_a_picture(raster: Raster, alpha: NDArray[Any]) -> bool:
    """What can be seen is not of one color."""
    seen = raster.samples[alpha > 0]
    return bool(len(seen)) and bool((seen.max(0) != seen.min(0)).any())
