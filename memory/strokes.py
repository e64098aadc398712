"""Strokes: colors painted on places of a picture, and how far each reaches in that very picture.

On other pictures a stroke is an entry like any other. On its own picture it is stronger: it holds where it was painted,
and flows from there to what belongs together, which ends at edges of lightness. How far a place is from a stroke is the
length of the shortest way to it,

    d = min over ways Σ (ΔL/σ)² + length / reach,

so soft shading costs little and an edge much; beyond 1 a stroke does nothing. Places of another thing therefore keep
the color that they had. Ways go over lightness without its grain, since many small steps would add up to an edge.
(Colors that flow where lightness is alike: Levin, Lischinski, Weiss, SIGGRAPH 2004.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..color.guided import upsample_guided

#: Step of lightness (CIE L) from one pixel to the next that ends a stroke.
EDGE = 4.0
#: Longest side at which ways are measured.
_SIDE = 160
#: Mean difference in L above which a picture is not the one that was painted on.
_SAME = 1.0


@dataclass(frozen=True)
class Marks:
    """Colors painted on one picture.

    :param chroma: (H, W, 2), a and b of CIE Lab, of painted places.
    :param place: (H, W) bool, what is painted.
    :param lightness: (H, W), CIE L of the picture.
    :param source: which of the memory's sources the strokes are.
    """

    chroma: Tensor
    place: Tensor
    lightness: Tensor
    source: int = 0

    def __post_init__(self) -> None:
        if self.chroma.shape[:2] != self.place.shape or self.place.shape != self.lightness.shape:
            raise ValueError(
                f"strokes: found marks {tuple(self.place.shape)} on a picture {tuple(self.lightness.shape)}, expected "
                "one size; paint on the picture itself."
            )
        if not bool(self.place.any()):
            raise ValueError("strokes: found marks that cover nothing, expected some place; paint on the picture.")

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(t.numel() * t.element_size() for t in (self.chroma, self.place, self.lightness))

    def are_of(self, lightness: Tensor) -> bool:
        """Whether a picture, (H, W) CIE L, is the one that was painted on."""
        if lightness.shape != self.lightness.shape:
            return False
        return float((lightness.float() - self.lightness.float()).abs().mean()) < _SAME


def overlaid(chroma: Tensor, marks: Marks, reach: float) -> tuple[Tensor, Tensor]:
    """A picture's chroma with the strokes that were painted on it.

    :param chroma: (H, W, 2) without them, at the picture's own size.
    :param reach: how far a stroke flows where there is no edge, in longest sides of the picture; 0 keeps it to the
        painted places.
    :returns: chroma (H, W, 2), and the strokes' share (H, W) in 0..1.
    """
    place = marks.place[..., None]
    if reach <= 0:
        return torch.where(place, marks.chroma, chroma), marks.place.float()
    share, color = _flow(marks, reach)
    share = torch.where(place, 1.0, share.clamp(0, 1))
    color = torch.where(place, marks.chroma, color)
    return torch.lerp(chroma, color, share), share[..., 0]


def _flow(marks: Marks, reach: float) -> tuple[Tensor, Tensor]:
    """Share (H, W, 1) and color (H, W, 2) of strokes at every place, at the picture's own size."""
    full = marks.lightness.float()[None, None]
    height, width = full.shape[2:]
    scale = min(1.0, _SIDE / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    painted = marks.place.float()[None, None]
    weighted = torch.cat([marks.chroma.float().movedim(-1, 0)[None] * painted, painted], 1)
    small = F.adaptive_avg_pool2d(weighted, size)
    light = F.interpolate(full, size, mode="bilinear", antialias=True)[0, 0] if scale < 1 else full[0, 0]
    # a thin stroke covers a part of a small pixel; its color is that of the painted part
    start = small[0, 2] > (0.25 if scale < 1 else 0)
    if not bool(start.any()):
        start = small[0, 2] > 0
    color = (small[0, :2] / small[0, 2].clamp_min(1e-6)).movedim(0, -1)
    away, color = shortest_ways(without_grain(light), start, color, reach * max(size))
    share = _falling(away)
    if scale == 1:
        return share[..., None], color
    both = torch.cat([share[..., None], color * share[..., None]], -1)[None]
    large = upsample_guided(both, marks.lightness.float()[None, ..., None])[0]
    return large[..., :1], large[..., 1:] / large[..., :1].clamp_min(1e-3)


def without_grain(lightness: Tensor) -> Tensor:
    """Lightness (h, w) without texture and noise, with its edges and thin lines.

    Averaged among neighbors that are about as light: the bilateral filter, Tomasi and Manduchi 1998.
    """
    from kornia.filters import bilateral_blur

    return bilateral_blur(lightness[None, None], 5, EDGE, (1.5, 1.5))[0, 0]


def _falling(away: Tensor) -> Tensor:
    """1 up to half the way, then smoothly to 0 at 1."""
    left = (2 * (1 - away)).clamp(0, 1)
    return left * left * (3 - 2 * left)


def shortest_ways(lightness: Tensor, start: Tensor, color: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    """How far each pixel is from the nearest start, and the color there.

    :param lightness: (h, w), CIE L.
    :param start: (h, w) bool.
    :param color: (h, w, 2), of the starts.
    :param reach: pixels of flat ground that are as far as an edge.
    :returns: distance (h, w), 1 and more where nothing reaches, and color (h, w, 2).
    """
    height, width = lightness.shape
    away = torch.where(start, 0.0, 2.0)
    color = torch.where(start[..., None], color, 0.0)
    padded = F.pad(lightness[None, None], (1,) * 4, mode="replicate")[0, 0]
    steps = []
    for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)):
        window = slice(1 + dy, 1 + dy + height), slice(1 + dx, 1 + dx + width)
        long = (dy * dy + dx * dx) ** 0.5
        steps.append((window, ((padded[window] - lightness) / EDGE).square() / long + long / reach))
    for _ in range(height + width):
        before = away
        around = F.pad(away[None, None], (1,) * 4, value=2.0)[0, 0]
        colors = F.pad(color, (0, 0, 1, 1, 1, 1))
        for window, cost in steps:
            through = around[window] + cost
            nearer = through < away
            away = torch.where(nearer, through, away)
            color = torch.where(nearer[..., None], colors[window], color)
        if torch.equal(before, away):
            break
    return away, color
