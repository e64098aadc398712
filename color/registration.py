"""Where each place of a picture lies in a drifted copy of it: lightness made comparable, and one global fit.

Positions are in pixels of a *frame*: the original at a bounded working size, and the copy stretched to the same size,
as a merge without registration would lay it on. The center of the first pixel is (0, 0). A fit is a homography from the
original's frame to the copy's; the identity is "nothing moved".

Features are SIFT's (Lowe 2004) with RANSAC, refined by ECC (Evangelidis and Psarakis 2008), both of OpenCV. Without
OpenCV there is phase correlation (Reddy and Chatterji 1996) alone: shift, scale and turn, no perspective.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .lab import luminance

#: Longest side at which places are looked for: cost and memory of that do not grow with the picture.
LONGEST = 1024
#: Pixels that are averaged at once when a large picture is shrunk.
_STRIP = 2**22


@dataclass(frozen=True)
class Fit:
    """One motion for the whole picture.

    :param matrix: (3, 3) float64, homogeneous pixels of the original's frame to those of the copy's.
    :param support: 0..1, share of the found features that agree with it; 0 where it is a guess.
    """

    matrix: Tensor
    support: float


def frame_of(height: int, width: int, longest: int = LONGEST) -> tuple[int, int]:
    """(h, w) of the frame of a picture: its own size, or smaller with the longest side as given."""
    scale = min(1.0, longest / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def lightness_at(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """CIE L of a picture at another size.

    :param picture: (H, W, 3) in 0..1. Much larger ones are averaged strip by strip first.
    :param size: (h, w).
    :returns: (h, w) float32 on the CPU, 0..100.
    """
    height, width = picture.shape[:2]
    factor = max(1, min(height // (2 * size[0]), width // (2 * size[1])))
    if factor > 1:
        rows = max(1, _STRIP // (width * factor)) * factor
        strips = [
            F.avg_pool2d(part.cpu().float().movedim(-1, 0)[None], factor)
            for part in picture[: height // factor * factor].split(rows)
        ]
        small = torch.cat(strips, 2)
    else:
        small = picture.cpu().float().movedim(-1, 0)[None]
    if tuple(small.shape[2:]) != tuple(size):
        small = F.interpolate(small, tuple(size), mode="bicubic", antialias=True).clamp(0, 1)
    return luminance(small.movedim(1, -1))[0]


def comparable(lightness: Tensor, reach: float = 0.02) -> Tensor:
    """Lightness whose tone curve is taken out: its difference from the surroundings, in their standard deviations.

    :param lightness: (h, w), CIE L.
    :param reach: standard deviation of the surroundings, share of the longest side.
    :returns: (h, w), about -3..3.
    """
    sigma = max(3.0, reach * max(lightness.shape))
    mean = blurred(lightness, sigma)
    deviation = (blurred(lightness.square(), sigma) - mean.square()).clamp_min(0).sqrt()
    # what grain does in a flat ground (an L of 1 or 2) must not look like structure
    return (lightness - mean) / (deviation + 4.0)


def blurred(plane: Tensor, sigma: float) -> Tensor:
    """(..., h, w) blurred by a window of three box filters, about a Gaussian; borders count what is there."""
    radius = max(1, round(sigma))
    shape = plane.shape
    planes = plane.reshape(-1, 1, *shape[-2:])
    for _ in range(3):
        planes = _boxed(planes, min(radius, shape[-1] - 1), -1)
        planes = _boxed(planes, min(radius, shape[-2] - 1), -2)
    return planes.view(shape)


def _boxed(planes: Tensor, radius: int, axis: int) -> Tensor:
    """The mean of 2 radius + 1 neighbors along one axis, of those that exist."""
    if radius < 1:
        return planes
    length = planes.shape[axis]
    sums = planes.double().cumsum(axis)
    sums = torch.cat([torch.zeros_like(sums.narrow(axis, 0, 1)), sums], axis)
    places = torch.arange(length)
    low, high = (places - radius).clamp_min(0), (places + radius + 1).clamp_max(length)
    shape = [1] * planes.ndim
    shape[axis] = length
    total = sums.index_select(axis, high) - sums.index_select(axis, low)
    return (total / (high - low).view(shape)).float()


def displacement_of(matrix: Tensor, size: tuple[int, int]) -> Tensor:
    """(h, w, 2): x and y of where a homography takes each pixel of a frame, minus its own."""
    places = grid(size)
    moved = apply(matrix, places)
    return (moved - places).float()


def grid(size: tuple[int, int]) -> Tensor:
    """(h, w, 2) float64: x and y of each pixel."""
    rows, columns = torch.meshgrid(
        torch.arange(size[0], dtype=torch.float64), torch.arange(size[1], dtype=torch.float64), indexing="ij"
    )
    return torch.stack([columns, rows], -1)


def apply(matrix: Tensor, places: Tensor) -> Tensor:
    """Points (..., 2) through a homography."""
    moved = places.double() @ matrix[:, :2].T + matrix[:, 2]
    return moved[..., :2] / moved[..., 2:]


def sampled(planes: Tensor, places: Tensor, mode: str = "bilinear") -> Tensor:
    """Values between pixels.

    :param planes: (C, h, w).
    :param places: (H, W, 2), x and y in pixels; beyond the border the border's value.
    :returns: (C, H, W).
    """
    height, width = planes.shape[-2:]
    scale = torch.tensor([2 / width, 2 / height])
    return F.grid_sample(
        planes[None], ((places.float() + 0.5) * scale - 1)[None], mode=mode, padding_mode="border", align_corners=False
    )[0]


def opencv() -> Any:
    """OpenCV, or None where it is not installed; any of its wheels will do."""
    try:
        import cv2
    except ImportError:
        return None
    return cv2


def fit_global(original: Tensor, edited: Tensor) -> Fit:
    """The homography that lays a copy on its original best.

    :param original: (h, w), lightness made :func:`comparable`; ``edited`` the same of the copy in the same frame.
    """
    cv2 = opencv()
    identity = Fit(torch.eye(3, dtype=torch.float64), 0.0)
    if cv2 is None or min(original.shape) < 32:
        return identity
    found = _from_features(cv2, original, edited)
    return identity if found is None else found


def as_bytes(plane: Tensor) -> Any:
    """Comparable lightness as OpenCV takes it, (h, w) uint8."""
    return (plane * 42 + 128).clamp(0, 255).round().to(torch.uint8).contiguous().numpy()


def _from_features(cv2: Any, original: Tensor, edited: Tensor) -> Fit | None:
    import numpy as np

    sift = cv2.SIFT_create(nfeatures=3000, contrastThreshold=0.02)
    (points, looks), (other_points, other_looks) = (
        sift.detectAndCompute(as_bytes(plane), None) for plane in (original, edited)
    )
    if looks is None or other_looks is None or min(len(points), len(other_points)) < 8:
        return None
    pairs = cv2.BFMatcher(cv2.NORM_L2).knnMatch(looks, other_looks, k=2)
    good = [pair[0] for pair in pairs if len(pair) == 2 and pair[0].distance < 0.8 * pair[1].distance]
    if len(good) < 8:
        return None
    here = np.asarray([points[match.queryIdx].pt for match in good], np.float32)
    there = np.asarray([other_points[match.trainIdx].pt for match in good], np.float32)
    cv2.setRNGSeed(0)
    matrix, inliers = cv2.findHomography(here, there, cv2.RANSAC, 3.0)
    if matrix is None or int(inliers.sum()) < 8:
        return None
    return Fit(torch.from_numpy(matrix), float(inliers.mean()))
