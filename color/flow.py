"""Dense motion between a picture and its drifted copy, and how sure it is.

The motion is OpenCV's DIS optical flow (Kroeger et al. 2016, arXiv 1603.03590), forward and backward, on top of a
global fit (:mod:`.registration`). Where there is structure and going there and back ends where it began, the flow is
believed; elsewhere it is continued smoothly from there. Tensors in, tensors out: neighboring frames of a film are such
a pair, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .evidence import confidence, correlation, quantile
from .registration import (
    GRAIN,
    LEAST_SIDE,
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
#: Standard deviation over which the flow is averaged, share of the longest side.
SMOOTH = 0.01
#: Pixels by which going there and back may miss where a place is half believed; smaller eigenvalue of the structure
#: tensor (of comparable lightness) from which it is believed fully.
MISS, STRUCTURE = 0.7, 0.01
#: A motion counts as none where three quarters of it are below the first number of pixels plus so many times what the
#: flow itself is unsteady by, the second at most, and 98 % are below the last. Found on still pairs with grain, other
#: tones and other sizes, whose flow had 0.01 to 0.45 pixels there.
STILL, UNSTEADY, MOST_STILL = (0.3, 0.6), 1.5, 1.5
#: Correlation that any two pictures may have once a flow has done what it could, and from which they are of one thing;
#: heavy grain leaves 0.37 of it.
CHANCE, RELATED = 0.1, 0.3


@dataclass(frozen=True)
class Registration:
    """Where each place of a picture lies in its copy.

    :param displacement: (h, w, 2), x and y in pixels of the frame; 0 is where a plain resize puts it. Exactly 0 where
        nothing was found to have moved.
    :param confidence: (h, w) in 0..1: below one half the copy probably shows something else there.
    :param fit: the global part.
    :param similarity: -1..1, the correlation of the two where they were laid on each other, without their grain.
    """

    displacement: Tensor
    confidence: Tensor
    fit: Fit
    similarity: float

    @property
    def likeness(self) -> float:
        """-1..1, how far the two show one thing: the similarity, or how far one motion explains what was matched."""
        return max(self.similarity, self.fit.support)


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
    # a copy of lower resolution has lost detail, which is no difference between the two
    common = (min(size[0], edited.shape[0]), min(size[1], edited.shape[1]))
    lightness, other = (_enlarged(lightness_at(picture, common), size) for picture in (original, edited))
    here, there = comparable(lightness), comparable(other)
    fit = Fit(torch.eye(3, dtype=torch.float64), 0.0)
    if motion != "none" and min(size) >= LEAST_SIDE:
        fit = fit_global(here, there)
    start = displacement_of(fit.matrix, size)
    displacement = start
    if motion == "local" and opencv() is not None and min(size) >= LEAST_SIDE:
        displacement = _local(here, there, start, reach * max(size))
    elif motion != "none" and _is_still(start, torch.zeros_like(start), torch.ones(size)):
        displacement = torch.zeros_like(start)
    places = grid(size).float() + displacement
    inside = ((places > -1) & (places < torch.tensor([size[1], size[0]]))).all(-1)
    laid, moved = (sampled(plane[None], places)[0] for plane in (other, there))
    calm, other_calm = blurred(torch.stack([here, moved]), GRAIN)
    sure = confidence(lightness, laid, here, moved, inside) * inside
    found = Registration(displacement, sure, fit, _correlated(calm, other_calm, inside))
    related = min(1.0, max(0.0, (found.likeness - CHANCE) / (RELATED - CHANCE)))
    return replace(found, confidence=sure * related)


def _enlarged(plane: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(plane.shape) == size:
        return plane
    return F.interpolate(plane[None, None], size, mode="bicubic", align_corners=False)[0, 0].clamp(0, 100)


def _correlated(here: Tensor, there: Tensor, inside: Tensor) -> float:
    """Correlation of two planes of comparable lightness, -1..1, where both are."""
    first, second = here * inside, there * inside
    return float((first * second).mean() / (first.square().mean() * second.square().mean()).sqrt().clamp_min(1e-6))


def _local(here: Tensor, there: Tensor, start: Tensor, most: float) -> Tensor:
    """Displacement, (h, w, 2), from a global one on."""
    places = grid((here.shape[0], here.shape[1])).float()
    moved = sampled(there[None], places + start)[0]
    with one_thread():
        forward, backward = flow_between(here, moved), flow_between(moved, here)
    back = sampled(backward.movedim(-1, 0), places + forward).movedim(0, -1)
    miss = (forward + back).norm(dim=-1)
    # the fit, continued from where the flow ends
    raw = forward + sampled(start.movedim(-1, 0), places + forward).movedim(0, -1)
    target = places + raw
    inside = ((target > -0.5) & (target < torch.tensor([here.shape[1] - 0.5, here.shape[0] - 0.5]))).all(-1)
    laid = sampled(there[None], target)[0]
    solid = torch.minimum(structure(here), structure(laid)) / STRUCTURE
    weight = (solid * correlation(here, laid).square() / (1 + (miss / MISS).square())).clamp(0, 1)
    weight = weight * inside * (forward.norm(dim=-1) <= most)
    smooth = start + smoothed(raw - start, weight, max(3.0, SMOOTH * max(here.shape)))
    unsteady = raw - smooth
    if _is_still(smooth, unsteady, weight):
        return torch.zeros_like(smooth)
    if _is_still(smooth - start, unsteady, weight):  # one motion of the whole explains it
        return start
    return smooth


@contextmanager
def one_thread() -> Iterator[None]:
    """OpenCV on one thread, so that sums come in one order; its own number afterwards."""
    cv2: Any = opencv()
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def flow_between(here: Tensor, there: Tensor) -> Tensor:
    """(h, w, 2): x and y by which each pixel of one plane of comparable lightness has moved in the other."""
    cv2: Any = opencv()
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return torch.from_numpy(dis.calc(as_bytes(here), as_bytes(there), None)).float()


def smoothed(motion: Tensor, weight: Tensor, sigma: float) -> Tensor:
    """A motion averaged with weights, and continued to where there are none from ever further away.

    :param motion: (h, w, 2); ``weight`` (h, w) in 0..1.
    :param sigma: pixels.
    :returns: (h, w, 2); 0 where nothing far and wide has weight.
    """
    planes = torch.cat([motion.movedim(-1, 0) * weight, weight[None]])
    wide, near = blurred(planes, 4 * sigma), blurred(planes, sigma)
    far = wide[:2] / (wide[2:] + 1e-3)
    return ((near[:2] + 0.05 * far) / (near[2:] + 0.05)).movedim(0, -1)


def structure(plane: Tensor, sigma: float = 3.0) -> Tensor:
    """(h, w): smaller eigenvalue of the structure tensor (Shi and Tomasi 1994).

    High where a motion can be seen in both directions.
    """
    across = F.pad(plane[:, 2:] - plane[:, :-2], (1, 1, 0, 0)) / 2
    down = F.pad(plane[2:] - plane[:-2], (0, 0, 1, 1)) / 2
    xx, yy, xy = blurred(torch.stack([across * across, down * down, across * down]), sigma)
    mean = (xx + yy) / 2
    return (mean - (mean.square() - xx * yy + xy * xy).clamp_min(0).sqrt()).clamp_min(0)


def _is_still(motion: Tensor, unsteady: Tensor, weight: Tensor) -> bool:
    """Whether a motion is no more than what the flow of a still picture has."""
    if float(weight.sum()) < 1:
        return True
    length, noise = motion.norm(dim=-1).flatten(), unsteady.norm(dim=-1).flatten()
    limit = min(STILL[0] + UNSTEADY * float(quantile(noise, weight.flatten(), 0.75)), STILL[1])
    return (
        float(quantile(length, weight.flatten(), 0.75)) < limit
        and float(quantile(length, weight.flatten(), 0.98)) < MOST_STILL
    )
