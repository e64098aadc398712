"""How much of a reference's colors a picture has: intersection of histograms of a and b."""

from __future__ import annotations

import torch
from torch import Tensor

from ..batches import check_batch
from ..lab import rgb_to_lab
from ..pictures import check_picture
from .colorfulness import levels

#: Centers of the bins on each axis, 0.1 apart over -1..1; and what a and b are divided by to lie there.
_POINTS, _RANGE = 21, 110.0
#: Published: sides that the reference is shrunk to and enlarged to; the second is the picture's own.
_SMALL, _SIDE = 128, 512


def histogram_intersection(picture: Tensor, reference: Tensor) -> Tensor:
    """Intersection (Swain and Ballard, *Color indexing*, IJCV 7(1), 1991) of two pictures' histograms of a and b.

    Each pixel is shared among the four nearest of 21 x 21 bins, by its nearness (a triangle on each axis, which is the
    published kernel 10 max(0.1 - |d|, 0)); a histogram sums to 1.

    :param picture: ``(B or 1, H, W, 3)``, sRGB in 0..1; ``reference`` the same, of any size.
    :returns: ``(B,)`` float64 on the CPU: 0 for no color in common, 1 for the same colors in the same amounts.
    :raises ValueError: for what are no pictures, or batches that do not fit.
    """
    check_picture(picture, "picture")
    check_picture(reference, "reference")
    check_batch(picture=picture, reference=reference)
    return torch.minimum(_histograms(picture), _histograms(reference)).sum(1)


def histogram_intersection_as_exemplar(picture: Tensor, reference: Tensor) -> Tensor:
    """HIS as the program of Kosugi 2025 (arXiv 2505.15812) reports it.

    The reference alone is shrunk to 128 x 128 and enlarged to 512 x 512 in 8 bits, which takes its rare colors away,
    and thus compares a blurred picture with a sharp one. Lab is scikit-image's, which is ours.

    :param picture: ``(B or 1, 512, 512, 3)``, sRGB in 0..1, taken in 8 bits.
    :param reference: ``(B or 1, h, w, 3)``, at least 128 pixels a side.
    :returns: ``(B,)`` float64 on the CPU, 0 to 1.
    :raises ValueError: for other sizes, which the program cannot take, or batches that do not fit.
    """
    check_picture(picture, "picture")
    check_picture(reference, "reference")
    if tuple(picture.shape[1:3]) != (_SIDE, _SIDE):
        raise ValueError(
            f"picture: found {picture.shape[2]} x {picture.shape[1]} pixels, expected {_SIDE} x {_SIDE}, which is all "
            "that the published program takes; scale it."
        )
    if min(reference.shape[1:3]) < _SMALL:
        raise ValueError(
            f"reference: found {reference.shape[2]} x {reference.shape[1]} pixels, expected at least {_SMALL} a side; "
            "take a larger one."
        )
    check_batch(picture=picture, reference=reference)
    shrunk = enlarged_in_8_bits(shrunk_in_8_bits(levels(reference)))
    return torch.minimum(_histograms(levels(picture).float() / 255), _histograms(shrunk.float() / 255)).sum(1)


def shrunk_in_8_bits(picture: Tensor) -> Tensor:
    """OpenCV's INTER_AREA to 128 x 128: ``(B, H, W, 3)`` uint8, at least that large -> ``(B, 128, 128, 3)`` uint8."""
    rows, columns = _area_weights(picture.shape[1]), _area_weights(picture.shape[2])
    mean = torch.einsum("yh,bhwc,xw->byxc", rows, picture.double(), columns)
    # What is a half but for rounding errors is one: OpenCV's float sums hit it, and round it to the even level.
    return ((mean * 2**20).round() / 2**20).round().to(torch.uint8)


def _area_weights(side: int) -> Tensor:
    """(128, side): how much each pixel counts in each that it becomes part of; rows sum to 1."""
    step = side / _SMALL
    starts = torch.arange(_SMALL, dtype=torch.float64)[:, None] * step
    pixels = torch.arange(side, dtype=torch.float64)
    shared = torch.minimum(pixels + 1, starts + step) - torch.maximum(pixels, starts)
    return shared.clamp_min(0) / step


def enlarged_in_8_bits(picture: Tensor) -> Tensor:
    """OpenCV's INTER_LINEAR to four times the size: ``(B, H, W, 3)`` uint8 -> ``(B, 4 H, 4 W, 3)`` uint8.

    Its integer arithmetic: weights are eighths, sums along rows exact, and both terms along columns cut off at a
    quarter of a level before they are added and rounded.
    """
    rows = _linear(picture.int(), 2)
    low, high, weight = _neighbors(picture.shape[1])
    weight = weight[:, None, None]
    above = (8 - weight) * rows[:, low] // 16
    below = weight * rows[:, high] // 16
    return ((above + below + 2) // 4).clamp(0, 255).to(torch.uint8)


def _linear(values: Tensor, axis: int) -> Tensor:
    """Four times as many along an axis, in eighths."""
    low, high, weight = _neighbors(values.shape[axis])
    shape = [1] * values.ndim
    shape[axis] = -1
    weight = weight.view(shape)
    return (8 - weight) * values.index_select(axis, low) + weight * values.index_select(axis, high)


def _neighbors(side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of 4 * side places the two pixels that they lie between, and the second's weight in eighths."""
    eighths = 2 * torch.arange(4 * side, dtype=torch.int32) + 1 - 4  # (i + 1/2) / 4 - 1/2
    low = torch.div(eighths, 8, rounding_mode="floor")
    weight = eighths - 8 * low
    return low.clamp(0, side - 1).long(), (low + 1).clamp(0, side - 1).long(), weight


def _histograms(picture: Tensor) -> Tensor:
    """(B, 441) float64."""
    chroma = rgb_to_lab(picture.detach().float())[..., 1:].double().flatten(1, 2) / _RANGE
    places = (chroma + 1) * ((_POINTS - 1) / 2)
    low = places.floor()
    shares = (1 - (places - low), places - low)  # of the point below and of that above, on each axis
    counts = torch.zeros(len(picture), _POINTS * _POINTS, dtype=torch.float64)
    for up in (0, 1):
        for right in (0, 1):
            a, b = low[..., 0] + up, low[..., 1] + right
            inside = (a >= 0) & (a < _POINTS) & (b >= 0) & (b < _POINTS)
            index = (a * _POINTS + b).where(inside, 0).long().cpu()
            counts.scatter_add_(1, index, (shares[up][..., 0] * shares[right][..., 1] * inside).cpu())
    return counts / chroma.shape[1]
