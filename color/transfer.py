"""Chroma of a drifted copy carried to the original's pixels, and filled where the copy cannot say."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .lab import rgb_to_lab
from .registration import grid, sampled


def carried(edited: Tensor, displacement: Tensor, size: tuple[int, int]) -> Tensor:
    """A copy laid on the original's pixels.

    :param edited: (h, w, C), any values.
    :param displacement: (f, g, 2), x and y in pixels of its own size, see :mod:`.flow`.
    :param size: (H, W), what the result has.
    :returns: (H, W, C).
    """
    planes = edited.float().movedim(-1, 0)
    height, width = edited.shape[:2]
    scale = torch.tensor([width / displacement.shape[1], height / displacement.shape[0]])
    moved = enlarged(displacement, size) * scale
    places = (grid(size).float() + 0.5) * torch.tensor([width / size[1], height / size[0]]) - 0.5
    return sampled(planes, places + moved, "bicubic").movedim(0, -1)


def enlarged(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """(h, w, C) or (h, w) at another size, smooth."""
    flat = planes if planes.ndim == 3 else planes[..., None]
    if tuple(flat.shape[:2]) != tuple(size):
        flat = F.interpolate(flat.movedim(-1, 0)[None], tuple(size), mode="bilinear", antialias=True)[0].movedim(0, -1)
    return flat if planes.ndim == 3 else flat[..., 0]


def filled(chroma: Tensor, weight: Tensor) -> Tensor:
    """Chroma where the weight is low, from the sure places around: coarser and coarser weighted means.

    :param chroma: (h, w, 2); ``weight`` (h, w) in 0..1.
    :returns: (h, w, 2).
    """
    planes, sure = chroma.movedim(-1, 0)[None], weight[None, None]
    levels = [(planes * sure, sure)]
    while max(levels[-1][0].shape[2:]) > 1:
        size = [max(1, (side + 1) // 2) for side in levels[-1][0].shape[2:]]
        levels.append(
            (F.interpolate(levels[-1][0], size, mode="area"), F.interpolate(levels[-1][1], size, mode="area"))
        )
    total, sure = levels[-1]
    known = total / sure.clamp_min(1e-6)
    for total, sure in reversed(levels[:-1]):
        known = F.interpolate(known, total.shape[2:], mode="bilinear", antialias=False)
        known = torch.lerp(known, total / sure.clamp_min(1e-6), sure.clamp(0, 1))
    return known[0].movedim(0, -1)


def chroma_at(edited: Tensor, displacement: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(H, W, 3) aligned Lab's L, and (H, W, 2) its a and b."""
    lab = carried(rgb_to_lab(edited[None].cpu().float())[0], displacement, size)
    return lab[..., 0], lab[..., 1:]
