"""Y'CbCr and R'G'B' in float: any bits, both ranges, chroma planes up and down.

Code values are what a video file stores, as floats. Ranges and formulas are those of ITU-T H.273, sections 8.3 and 8.4.
Chroma is sited as video is unless it says otherwise: on every second column of the picture, and between two rows
(MPEG-2's place, ``left``); JPEG's and MPEG-1's stands between columns, too (``center``).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

#: What red and blue weigh in luma, by FFmpeg's names of matrices (H.273, table 4).
WEIGHTS: dict[str, tuple[float, float]] = {
    "bt709": (0.2126, 0.0722),
    "bt470bg": (0.299, 0.114),
    "smpte170m": (0.299, 0.114),
    "fcc": (0.30, 0.11),
    "smpte240m": (0.212, 0.087),
    "bt2020nc": (0.2627, 0.0593),
}
#: Where chroma stands between the columns of a picture.
Siting = Literal["left", "center"]


def to_rgb(y: Tensor, cb: Tensor, cr: Tensor, *, bits: int, matrix: str, full: bool) -> Tensor:
    """R'G'B' of code values; white comes as exactly 1, black as exactly 0.

    :param y: (..., H, W) code values of ``bits`` bits; ``cb`` and ``cr`` of the same size.
    :param matrix: one of :data:`WEIGHTS`.
    :param full: all codes are used (JPEG's range), not 16 to 235 of 256.
    :returns: (..., H, W, 3) float32 in 0..1; what lies beyond is cut off.
    :raises ValueError: another matrix.
    """
    kr, kb = weights(matrix)
    black, span, middle, swing = _scale(bits, full)
    luma = (y.float() - black) / span
    blue, red = (cb.float() - middle) / swing, (cr.float() - middle) / swing
    kg = 1 - kr - kb
    made = torch.empty(*luma.shape, 3, dtype=torch.float32, device=luma.device)
    made[..., 0] = luma + red * (2 * (1 - kr))
    made[..., 1] = luma - blue * (2 * (1 - kb) * kb / kg) - red * (2 * (1 - kr) * kr / kg)
    made[..., 2] = luma + blue * (2 * (1 - kb))
    return made.clamp_(0, 1)


def gray_to_rgb(y: Tensor, *, bits: int, full: bool) -> Tensor:
    """R'G'B' of luma alone; see :func:`to_rgb`.

    :param y: (..., H, W) code values.
    :returns: (..., H, W, 3) float32 in 0..1.
    """
    black, span, _, _ = _scale(bits, full)
    luma = ((y.float() - black) / span).clamp_(0, 1)
    return luma[..., None].repeat(*[1] * luma.ndim, 3)


def from_rgb(image: Tensor, *, bits: int, matrix: str, full: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Code values of R'G'B', not rounded yet, so that chroma can be made smaller first.

    :param image: (..., H, W, 3) in 0..1.
    :param matrix: one of :data:`WEIGHTS`.
    :returns: Y', Cb and Cr, each (..., H, W) float32; see :func:`rounded`.
    :raises ValueError: another matrix.
    """
    kr, kb = weights(matrix)
    black, span, middle, swing = _scale(bits, full)
    red, green, blue = image.float().clamp(0, 1).unbind(-1)
    luma = red * kr + green * (1 - kr - kb) + blue * kb
    cb = (blue - luma) / (2 * (1 - kb))
    cr = (red - luma) / (2 * (1 - kr))
    return luma * span + black, cb * swing + middle, cr * swing + middle


def rounded(codes: Tensor, bits: int) -> Tensor:
    """Code values as the nearest whole numbers that ``bits`` bits hold, still as floats."""
    return codes.round().clamp_(0, 2**bits - 1)


def chroma_up(plane: Tensor, height: int, width: int, siting: Siting = "left") -> Tensor:
    """A chroma plane at the picture's size, linearly between its samples.

    :param plane: (h, w) floats, each side a half, a quarter or all of the picture's, rounded up.
    :returns: (height, width).
    """
    down = _between(height, plane.shape[0], centered=True)
    across = _between(width, plane.shape[1], centered=siting == "center")
    for dim, places in ((0, down), (1, across)):
        if places is not None:
            low, high, share = (each.to(plane.device) for each in places)
            share = share[:, None] if dim == 0 else share
            plane = torch.lerp(plane.index_select(dim, low), plane.index_select(dim, high), share)
    return plane


def chroma_down(plane: Tensor, *, rows: bool, columns: bool, siting: Siting = "left") -> Tensor:
    """A chroma plane with every second row or column, or both, left out after filtering.

    Columns are weighted 1, 2, 1 about the sample where it stands on one, else pairs are averaged; so are rows.

    :param plane: (H, W) floats.
    :returns: (h, w), sides rounded up.
    """
    made = plane[None, None]
    if rows:
        made = F.pad(made, (0, 0, 0, made.shape[-2] % 2), mode="replicate")
        made = (made[..., 0::2, :] + made[..., 1::2, :]) / 2
    if columns and siting == "center":
        made = F.pad(made, (0, made.shape[-1] % 2, 0, 0), mode="replicate")
        made = (made[..., 0::2] + made[..., 1::2]) / 2
    elif columns:
        padded = F.pad(made, (1, 1 + made.shape[-1] % 2, 0, 0), mode="replicate")
        half = (made.shape[-1] + 1) // 2
        left, at, right = (padded[..., first::2][..., :half] for first in range(3))
        made = (left + 2 * at + right) / 4
    return made[0, 0]


def weights(matrix: str) -> tuple[float, float]:
    """What red and blue weigh in luma.

    :raises ValueError: a matrix that is none of :data:`WEIGHTS`.
    """
    if matrix not in WEIGHTS:
        raise ValueError(
            f"The color matrix {matrix!r} is not known; expected one of {', '.join(WEIGHTS)}. Convert the film first."
        )
    return WEIGHTS[matrix]


def _scale(bits: int, full: bool) -> tuple[float, float, float, float]:
    """Black, white less black, gray of chroma, and chroma's whole swing."""
    middle = float(1 << (bits - 1))
    if full:
        return 0.0, 2.0**bits - 1, middle, 2.0**bits - 1
    unit = 2.0 ** (bits - 8)
    return 16 * unit, 219 * unit, middle, 224 * unit


def _between(length: int, samples: int, *, centered: bool) -> tuple[Tensor, Tensor, Tensor] | None:
    """The two samples beside each place of the picture, and the second one's share; none where sizes are equal."""
    factor = next((each for each in (1, 2, 4) if -(-length // each) == samples), 0)
    if factor == 0:
        raise ValueError(f"found {samples} chroma samples along {length} pixels; expected all, a half or a quarter.")
    if factor == 1:
        return None
    place = torch.arange(length, dtype=torch.float32)
    place = (place - (factor - 1) / 2 if centered else place) / factor
    place = place.clamp_(0, samples - 1)
    low = place.floor().long()
    return low, (low + 1).clamp_(max=samples - 1), place - low
