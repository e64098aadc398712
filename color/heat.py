"""Heat maps over pictures, displacements as colors, and pictures side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .lab import lab_to_rgb

# Stops of a perceptually ordered ramp, black to violet to orange to pale yellow: readable in print and by color-blind
# eyes, as lightness grows all the way.
_STOPS = ((0.0, 0.0, 0.02), (0.25, 0.05, 0.38), (0.62, 0.16, 0.40), (0.93, 0.41, 0.15), (0.99, 0.99, 0.65))


def heat_colors(heat: Tensor) -> Tensor:
    """(...,) in 0..1 -> (..., 3)."""
    stops = torch.tensor(_STOPS, device=heat.device)
    place = heat.float().clamp(0, 1) * (len(_STOPS) - 1)
    low = place.floor().long().clamp_max(len(_STOPS) - 2)
    return torch.lerp(stops[low], stops[low + 1], (place - low).unsqueeze(-1))


def over_picture(picture: Tensor, heat: Tensor) -> Tensor:
    """Heat (B, H, W) laid over the dimmed gray version of a picture (B, H, W, 3); largest heat is opaque."""
    gray = 0.35 * picture.float().mean(-1, keepdim=True).expand(-1, -1, -1, 3)
    return torch.lerp(gray, heat_colors(heat), heat.float().clamp(0, 1).sqrt().unsqueeze(-1))


def displacement_picture(displacement: Tensor, most: float | None = None) -> Tensor:
    """Displacement as colors: hue is the direction, chroma the length.

    :param displacement: (B, H, W, 2), x and y in pixels.
    :param most: length in pixels that is most colorful; None is the longest in the batch.
    :returns: (B, H, W, 3) in 0..1.
    """
    length = displacement.float().norm(dim=-1, keepdim=True)
    scale = float(length.max()) if most is None else most
    chroma = displacement.float() / max(scale, 1e-6) * 60
    return lab_to_rgb(torch.cat([torch.full_like(length, 70.0), chroma], -1))


def mark_point(picture: Tensor, point: tuple[float, float]) -> Tensor:
    """A ring with a dark edge at (x, y) in 0..1, on a copy."""
    _, height, width, _ = picture.shape
    radius = max(2.0, 0.03 * min(height, width))
    rows = torch.arange(height, device=picture.device).float()[:, None] - point[1] * (height - 1)
    columns = torch.arange(width, device=picture.device).float()[None] - point[0] * (width - 1)
    distance = (rows.pow(2) + columns.pow(2)).sqrt()
    band = max(1.0, radius / 3)
    marked = picture.float().clone()
    marked[:, (distance - radius).abs() < 1.6 * band] = torch.zeros(3, device=picture.device)
    marked[:, (distance - radius).abs() < 0.7 * band] = torch.tensor([1.0, 0.95, 0.2], device=picture.device)
    return marked


def side_by_side(pictures: Sequence[Tensor], gap: int = 4) -> Tensor:
    """Pictures (1, H, W, 3) in a row, scaled to the height of the tallest, on white."""
    height = max(p.shape[1] for p in pictures)
    row = []
    for p in pictures:
        width = max(1, round(p.shape[2] * height / p.shape[1]))
        scaled = F.interpolate(
            p.float().movedim(-1, 1), size=(height, width), mode="bilinear", align_corners=False, antialias=True
        )
        row += [scaled.movedim(1, -1).clamp(0, 1), torch.ones(1, height, gap, 3, device=p.device)]
    return torch.cat(row[:-1], dim=2)


def heat_overlay(
    image: Tensor, reference: Tensor, heat: Tensor, point: tuple[float, float] | None, region: Tensor | None
) -> Tensor:
    """The input with the place that looks, beside the reference with where it looks.

    :param image: (1, H, W, 3); ``reference`` (1, h, w, 3); ``heat`` (1, h, w), largest value 1.
    :param point: (x, y) in 0..1, or None with ``region`` (1, H', W').
    """
    if point is not None:
        asked = mark_point(image, point)
    elif region is None:
        asked = image.float()
    else:
        size = image.shape[1:3]
        mask = F.interpolate(region.float()[:, None], size=size, mode="bilinear", align_corners=False)[:, 0, ..., None]
        asked = torch.lerp(0.35 * image.float(), image.float(), mask)
    return side_by_side([asked, over_picture(reference, heat)])
