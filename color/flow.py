"""Dense motion between a picture and its drifted copy, and how sure it is.

The motion is OpenCV's DIS optical flow (Kroeger et al. 2016, arXiv 1603.03590), forward and backward, on top of a
global fit (:mod:`.registration`). Tensors in, tensors out: neighboring frames of a film are such a pair, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .registration import (
    LONGEST,
    Fit,
    as_bytes,
    blurred,
    comparable,
    displacement_of,
    fit_global,
    frame_of,
    grid,
    lightness_at,
    opencv,
    sampled,
)

#: What is looked for: one motion of the whole and local ones on top, the one alone, or none.
Motion = Literal["local", "global", "none"]
#: Pixels of the frame by which going there and back may miss, where a place is half sure.
HALF_SURE = 1.5


@dataclass(frozen=True)
class Registration:
    """Where each place of a picture lies in its copy.

    :param displacement: (h, w, 2), x and y in pixels of the frame; 0 is where a plain resize puts it.
    :param confidence: (h, w) in 0..1.
    :param fit: the global part.
    :param similarity: 0..1, how alike the two look where they were laid on each other.
    """

    displacement: Tensor
    confidence: Tensor
    fit: Fit
    similarity: float


def register(
    original: Tensor, edited: Tensor, motion: Motion = "local", reach: float = 0.03, longest: int = LONGEST
) -> Registration:
    """Find a picture's places in a copy of any size.

    :param original: (H, W, 3) in 0..1; only its lightness counts. ``edited`` (h, w, 3) the same.
    :param motion: what is looked for.
    :param reach: how far a place may lie from where the global fit puts it, share of the longest side.
    :param longest: longest side of the frame.
    """
    size = frame_of(original.shape[0], original.shape[1], longest)
    here, there = (comparable(lightness_at(picture, size)) for picture in (original, edited))
    fit = Fit(torch.eye(3, dtype=torch.float64), 0.0) if motion == "none" else fit_global(here, there)
    start = displacement_of(fit.matrix, size)
    places = grid(size).float()
    moved = sampled(there[None], places + start)[0]
    cycle = torch.zeros(size)
    displacement = start
    cv2 = opencv()
    if motion == "local" and cv2 is not None and min(size) >= 16:
        forward, backward = _flow(cv2, here, moved), _flow(cv2, moved, here)
        most = reach * max(size)
        forward = forward * (most / forward.norm(dim=-1, keepdim=True).clamp_min(most))
        back = sampled(backward.movedim(-1, 0), places + forward).movedim(0, -1)
        cycle = (forward + back).norm(dim=-1)
        displacement = forward + sampled(start.movedim(-1, 0), places + forward).movedim(0, -1)
        moved = sampled(there[None], places + displacement)[0]
    alike = _similarity(here, moved)
    target = places + displacement
    inside = ((target > -1) & (target < torch.tensor([size[1], size[0]]))).all(-1)
    confidence = inside * alike / (1 + (cycle / HALF_SURE).square())
    return Registration(displacement, confidence.clamp(0, 1), fit, float(alike.mean()))


def _flow(cv2: Any, here: Tensor, there: Tensor) -> Tensor:
    """(h, w, 2): x and y by which each pixel of one plane has moved in the other."""
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return torch.from_numpy(dis.calc(as_bytes(here), as_bytes(there), None)).float()


def _similarity(here: Tensor, there: Tensor, sigma: float = 4.0) -> Tensor:
    """(h, w) in 0..1: how well the surroundings correlate; flat ones are alike."""
    mean, other = blurred(here, sigma), blurred(there, sigma)
    first = (blurred(here.square(), sigma) - mean.square()).clamp_min(0)
    second = (blurred(there.square(), sigma) - other.square()).clamp_min(0)
    both = blurred(here * there, sigma) - mean * other
    flat = 0.02  # squared: what grain leaves
    return ((both + flat) / ((first + flat) * (second + flat)).sqrt()).clamp(0, 1)
