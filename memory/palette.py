"""Palettes: colors without places, which bound what may come out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

#: Directions in which a hull is measured. A polygon between its outermost points of 64 directions lies within 0.12 % of
#: its width inside the true one.
_DIRECTIONS = 64
#: Chroma (units of CIE Lab) below which a color counts as gray.
GRAY = 3.0
#: Lightness (CIE L) from one hull of a palette that is tied to lightness to the next, and how far its colors reach.
_STEP, _REACH = 5.0, 12.5
#: Colors brought into a hull at once.
_STRIP = 2**15


@dataclass(frozen=True)
class Palette:
    """Colors that a picture, or a region of it, is kept to.

    :param chroma: (P, 2), a and b of CIE Lab.
    :param lightness: (P,), CIE L: each color then bounds places about as light as itself. None: all bound everywhere.
    :param mask: (h, w) in 0..1, the region; None for the whole picture.
    :raises ValueError: no colors, or nothing but gray.
    """

    chroma: Tensor
    lightness: Tensor | None = None
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if self.chroma.ndim != 2 or self.chroma.shape[-1] != 2 or not len(self.chroma):
            raise ValueError(
                f"palette: found colors of shape {tuple(self.chroma.shape)}, expected at least one; name a color."
            )
        if self.lightness is not None and len(self.lightness) != len(self.chroma):
            raise ValueError(
                f"palette: found {len(self.lightness)} lightness values, expected {len(self.chroma)}, one a color."
            )
        if not float(self.chroma.norm(dim=-1).max()) >= GRAY:
            raise ValueError(
                "palette: found nothing but gray, expected colors; add some, or lower the saturation for a gray result."
            )
        if self.mask is not None and (self.mask.ndim != 2 or not bool((self.mask > 0).any())):
            raise ValueError(
                "palette: found a mask that covers nothing, expected a region; paint one, or disconnect it."
            )

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(t.numel() * t.element_size() for t in (self.chroma, self.lightness, self.mask) if t is not None)


def hull(chroma: Tensor) -> Tensor:
    """Corners of the convex hull of colors, in order, (D, 2); the same corner may come several times.

    :param chroma: (P, 2), at least one.
    """
    return chroma[(chroma @ _directions().T).argmax(0)]


def _directions() -> Tensor:
    angles = torch.arange(_DIRECTIONS) * (2 * math.pi / _DIRECTIONS)
    return torch.stack([angles.cos(), angles.sin()], -1)


def into_hull(chroma: Tensor, corners: Tensor) -> Tensor:
    """Colors inside a hull as they are, others at the nearest point of it.

    :param chroma: (..., 2).
    :param corners: (D, 2), as :func:`hull` gives them.
    """
    directions = _directions()
    reach = (corners @ directions.T).amax(0)
    flat = chroma.reshape(-1, 2)
    out = flat.clone()
    starts, sides = corners, corners.roll(-1, 0) - corners
    length = sides.square().sum(-1).clamp_min(1e-12)
    for part, place in zip(flat.split(_STRIP), out.split(_STRIP), strict=True):
        outside = (part @ directions.T > reach + 1e-4).any(-1)
        stray = part[outside]
        along = (((stray[:, None] - starts) * sides).sum(-1) / length).clamp(0, 1)  # (n, D), on each side
        nearest = starts + along[..., None] * sides
        best = (nearest - stray[:, None]).square().sum(-1).argmin(-1)
        place[outside] = nearest[torch.arange(len(stray)), best]
    return out.reshape(chroma.shape)


def bounded(chroma: Tensor, lightness: Tensor, palettes: Sequence[Palette]) -> Tensor:
    """Chroma within palettes.

    Palettes without a region hold everywhere, all their colors together; one with a region holds there instead.

    :param chroma: (H, W, 2) float32.
    :param lightness: (H, W), CIE L.
    :returns: (H, W, 2); without palettes the tensor itself.
    """
    free = [palette for palette in palettes if palette.mask is None and palette.lightness is None]
    tied = [palette for palette in palettes if palette.mask is None and palette.lightness is not None]
    out = chroma
    if free or tied:
        out = _within(chroma, lightness, [*free, *tied])
    for palette in palettes:
        if palette.mask is not None:
            mask = F.interpolate(palette.mask.float()[None, None], chroma.shape[:2], mode="bilinear", antialias=True)
            out = torch.lerp(out, _within(chroma, lightness, [palette]), mask[0, 0, ..., None])
    return out


def _within(chroma: Tensor, lightness: Tensor, palettes: Sequence[Palette]) -> Tensor:
    """(H, W, 2) within the colors of some palettes together; those tied to a lightness count near it only."""
    if all(palette.lightness is None for palette in palettes):
        return into_hull(chroma, hull(torch.cat([palette.chroma for palette in palettes]).float()))
    free = [palette.chroma.float() for palette in palettes if palette.lightness is None]
    tied = torch.cat([palette.chroma.float() for palette in palettes if palette.lightness is not None])
    light = torch.cat([palette.lightness.float() for palette in palettes if palette.lightness is not None])
    at = (lightness / _STEP).clamp(0, 100 / _STEP)
    out = torch.zeros_like(chroma)
    for number in range(int(100 / _STEP) + 1):
        share = (1 - (at - number).abs()).clamp_min(0)  # of this hull and its neighbor, 1 together
        if not bool((share > 0).any()):
            continue
        apart = (light - number * _STEP).abs()
        near = apart <= torch.maximum(apart.min(), torch.tensor(_REACH))
        corners = hull(torch.cat([*free, tied[near]]))
        here = share > 0
        out[here] += share[here][:, None] * into_hull(chroma[here], corners)
    return out
