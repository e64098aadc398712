"""Where each place of a picture lies in a drifted copy of it: lightness made comparable, and one global fit.

Positions are in pixels of a *frame*: the original at a bounded working size, and the copy stretched to the same size,
as a merge without registration would lay it on. The center of the first pixel is (0, 0). A fit is a homography from the
original's frame to the copy's; the identity is "nothing moved".

Features are OpenCV's SIFT (Lowe 2004) with RANSAC, which are right to a tenth of a pixel. Where they are too few, and
without OpenCV, there is phase correlation (Reddy and Chatterji 1996): shift, scale and turn, no perspective.
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
#: Side below which there is nothing to look for.
LEAST_SIDE = 16
#: Features of each picture; matches that are few enough to be chance; how much better than the second a match must be;
#: and how far from a fit a match may lie, share of the longest side.
FEATURES, LEAST, DISTINCT, NEAR = 2000, 12, 0.8, 0.008
#: Share of the usual miss that is left where a fit with more numbers is worth it.
SIMPLER = 0.6
#: Standard deviation in pixels over which grain is averaged out before two planes are compared.
GRAIN = 2
#: Correlation, or share of the features, that needs no other proof; what another fit must be better by; and the share
#: of the longest side by which a fit that moves the corners further needs that proof.
SURE, BETTER, FAR = 0.5, 0.05, 0.25
#: Pixels that are averaged at once when a large picture is shrunk.
_STRIP = 2**22


@dataclass(frozen=True)
class Fit:
    """One motion for the whole picture.

    :param matrix: (3, 3) float64, homogeneous pixels of the original's frame to those of the copy's.
    :param support: 0..1, share of the found features that agree with it, or by phase correlation how well the two
        correlate; 0 where it is a guess.
    """

    matrix: Tensor
    support: float

    @property
    def upright(self) -> bool:
        """Whether it turns by less than 45 degrees, and does not mirror."""
        across, down = self.matrix[:2, 0], self.matrix[:2, 1]
        return bool(across[0] > across[1].abs()) and bool(down[1] > down[0].abs())


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
    return boxed(plane, max(1, round(sigma)), 3)


def boxed(plane: Tensor, radius: int, times: int = 1) -> Tensor:
    """The mean of (2 radius + 1)² neighbors of each place, of those that exist; so many times.

    By OpenCV's running sums, whose cost does not depend on the width; without it, by matrices, some ten times slower.

    :param plane: (..., h, w) on the CPU.
    """
    height, width = plane.shape[-2:]
    rows, columns = min(radius, height - 1), min(radius, width - 1)
    planes = plane.reshape(-1, height, width)
    cv2 = opencv()
    if cv2 is None:
        down, across = _boxes(height, rows, times), _boxes(width, columns, times)
        return (down @ planes @ across.T).view(plane.shape)
    counts = (_window_lengths(height, rows)[:, None] * _window_lengths(width, columns)).numpy()
    size = (2 * columns + 1, 2 * rows + 1)
    out = torch.empty_like(planes, memory_format=torch.contiguous_format)
    for each, to in zip(planes, out, strict=True):
        values = each.contiguous().numpy()
        for _ in range(times):
            values = cv2.boxFilter(values, -1, size, normalize=False, borderType=cv2.BORDER_CONSTANT) / counts
        to.copy_(torch.from_numpy(values))
    return out.view(plane.shape)


def _window_lengths(length: int, radius: int) -> Tensor:
    """(length,): how many places a window around each has within the line."""
    places = torch.arange(length)
    return ((places + radius + 1).clamp_max(length) - (places - radius).clamp_min(0)).float()


def _boxes(length: int, radius: int, times: int) -> Tensor:
    """(length, length): box filters along a line, one after another, as one matrix."""
    places = torch.arange(length)
    box = ((places[:, None] - places).abs() <= radius).double()
    return torch.linalg.matrix_power(box / box.sum(1, keepdim=True), times).float()


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
    """The homography that lays a copy on its original best, no more bent than the features ask for.

    :param original: (h, w), lightness made :func:`comparable`; ``edited`` the same of the copy in the same frame.
    """
    cv2 = opencv()
    found = None if cv2 is None else _from_features(cv2, original, edited)
    if found is None:
        return by_phase(original, edited)
    # grain differs everywhere, and says nothing of where things are
    here, there = blurred(torch.stack([original, edited]), GRAIN)
    alike = _alike(here, there, found.matrix)
    if alike >= SURE:
        return found
    other = by_phase(original, edited)
    far = float(_corners_moved(found.matrix, original.shape)) > FAR * max(original.shape)
    if (far and found.support < SURE) or _alike(here, there, other.matrix) > alike + BETTER:
        return other
    return found


def as_bytes(plane: Tensor) -> Any:
    """Comparable lightness as OpenCV takes it, (h, w) uint8."""
    return (plane * 42 + 128).clamp(0, 255).round().to(torch.uint8).contiguous().numpy()


def _from_features(cv2: Any, original: Tensor, edited: Tensor) -> Fit | None:
    """The fit of matched features; None where there are too few that agree."""
    pairs = _matches(cv2, original, edited)
    if pairs is None:
        return None
    here, there = pairs
    # a smooth warp is no homography: what is a few pixels off still says where the whole has gone
    near = max(3.0, NEAR * max(original.shape))
    best, least = None, near
    for find in (cv2.estimateAffinePartial2D, cv2.estimateAffine2D, cv2.findHomography):
        if find is cv2.findHomography:
            matrix, agree = find(here, there, cv2.RANSAC, near)
        else:
            matrix, agree = find(here, there, method=cv2.RANSAC, ransacReprojThreshold=near)
        if matrix is None or agree is None or int(agree.sum()) < LEAST:
            continue
        whole = torch.eye(3, dtype=torch.float64)
        whole[: len(matrix)] = torch.from_numpy(matrix)
        miss = (apply(whole, torch.from_numpy(here)) - torch.from_numpy(there)).norm(dim=-1).clamp_max(near)
        usual = float(miss.quantile(0.4))  # that of good matches: many are wrong ones
        # four numbers extrapolate better than eight: more only where they explain far more
        if _is_sane(whole, original.shape) and (best is None or usual < SIMPLER * least):
            best, least = Fit(whole, float((miss < near).double().mean())), usual
    return best


def _matches(cv2: Any, original: Tensor, edited: Tensor) -> tuple[Any, Any] | None:
    """Two lists of points, (n, 2) float32, that look alike in both planes; None where they are too few."""
    import numpy as np

    sift = cv2.SIFT_create(nfeatures=FEATURES, contrastThreshold=0.02)
    (points, looks), (others, other_looks) = (
        sift.detectAndCompute(as_bytes(plane), None) for plane in (original, edited)
    )
    if looks is None or other_looks is None or min(len(points), len(others)) < LEAST:
        return None
    pairs = cv2.BFMatcher(cv2.NORM_L2).knnMatch(looks, other_looks, k=2)
    good = [pair[0] for pair in pairs if len(pair) == 2 and pair[0].distance < DISTINCT * pair[1].distance]
    if len(good) < LEAST:
        return None
    here = np.asarray([points[match.queryIdx].pt for match in good], np.float32)
    return here, np.asarray([others[match.trainIdx].pt for match in good], np.float32)


def _is_sane(matrix: Tensor, size: tuple[int, ...]) -> bool:
    """Whether a homography is something that happens to pictures: not folded, and no more than four times as large."""
    height, width = size[0] - 1, size[1] - 1
    corners = torch.tensor([[0, 0], [width, 0], [width, height], [0, height]], dtype=torch.float64)
    depth = corners @ matrix[2, :2] + matrix[2, 2]
    if float(depth.min()) <= 0.2 * float(depth.max()):
        return False
    moved = apply(matrix, corners)
    sides = moved.roll(-1, 0) - moved
    turns = sides[:, 0] * sides.roll(-1, 0)[:, 1] - sides[:, 1] * sides.roll(-1, 0)[:, 0]
    area = turns.abs().mean() / max(1, height * width)
    return bool((turns > 0).all()) and 1 / 16 < float(area) < 16


def _corners_moved(matrix: Tensor, size: tuple[int, ...]) -> Tensor:
    """The furthest that a homography moves a corner, pixels."""
    height, width = size[0] - 1, size[1] - 1
    corners = torch.tensor([[0, 0], [width, 0], [width, height], [0, height]], dtype=torch.float64)
    return (apply(matrix, corners) - corners).norm(dim=-1).max()


def by_phase(original: Tensor, edited: Tensor) -> Fit:
    """Scale, turn and shift by phase correlation, in plain torch.

    The Fourier magnitudes do not know of the shift; on a log-polar grid scale and turn are a shift of their own. Of the
    candidates the one is taken that makes the two most alike; the identity is one of them.
    """
    identity = torch.eye(3, dtype=torch.float64)
    if min(original.shape) < LEAST_SIDE:
        return Fit(identity, 0.0)
    candidates = [identity, _shift(original, edited)]
    places = grid((original.shape[0], original.shape[1]))
    for turned in _scale_and_turn(original, edited):
        moved = sampled(edited[None], apply(turned, places))[0]
        candidates.append(turned @ _shift(original, moved))
    scores = [_alike(original, edited, matrix) for matrix in candidates]
    best = max(range(len(candidates)), key=lambda i: scores[i] - (0.0 if i else -0.02))
    return Fit(candidates[best], max(0.0, scores[best]))


def _window(size: tuple[int, ...]) -> Tensor:
    rows, columns = (torch.hann_window(side, periodic=False) for side in size)
    return rows[:, None] * columns


def _shift(original: Tensor, edited: Tensor) -> Tensor:
    """(3, 3): the shift that phase correlation finds, to a part of a pixel."""
    window = _window(original.shape)
    first, second = (torch.fft.rfft2(plane * window) for plane in (original, edited))
    both = second * first.conj()
    peaks = torch.fft.irfft2(both / both.abs().clamp_min(1e-6), original.shape)
    # a peak of one pixel is noise, one with a neighborhood is a shift
    peaks = F.avg_pool2d(F.pad(peaks[None, None], (1, 1, 1, 1), mode="circular"), 3, 1)[0, 0]
    height, width = peaks.shape
    at = int(peaks.argmax())
    row, column = at // width, at % width
    found = [_between(peaks[:, column], row, height), _between(peaks[row], column, width)]
    matrix = torch.eye(3, dtype=torch.float64)
    matrix[1, 2], matrix[0, 2] = found
    return matrix


def _between(line: Tensor, at: int, length: int) -> float:
    """Where a parabola through a peak and its neighbors is highest; beyond the middle it is negative."""
    low, middle, high = float(line[at - 1]), float(line[at]), float(line[(at + 1) % length])
    curve = low - 2 * middle + high
    place = at + (0.5 * (low - high) / curve if curve < 0 else 0.0)
    return place - length if place > length / 2 else place


def _scale_and_turn(original: Tensor, edited: Tensor) -> list[Tensor]:
    """Homographies about the middle that make the Fourier magnitudes agree; a half turn more does as well."""
    angles, radii = 360, 256
    size = original.shape
    side = min(size)
    theta = torch.arange(angles, dtype=torch.float32) * (torch.pi / angles)
    step = (side / 2 / 4) ** (1 / radii)
    radius = 4 * step ** torch.arange(radii, dtype=torch.float32)
    spectra = []
    for plane in (original, edited):
        magnitude = torch.fft.fftshift(torch.fft.fft2(plane * _window(size)).abs()).log1p()
        # frequency f lies at f times the side, which differs between the axes
        x = size[1] // 2 + radius[None] * theta.cos()[:, None] * (size[1] / side)
        y = size[0] // 2 + radius[None] * theta.sin()[:, None] * (size[0] / side)
        polar = sampled(magnitude[None], torch.stack([x, y], -1))[0]
        spectra.append(polar - polar.mean(0, keepdim=True))
    moved = _shift(*spectra)
    turn, scale = float(moved[1, 2]) * torch.pi / angles, float(step ** -moved[0, 2])
    middle = torch.tensor([(size[1] - 1) / 2, (size[0] - 1) / 2], dtype=torch.float64)
    found = []
    for sign in (1, -1):
        angle = torch.tensor(turn, dtype=torch.float64)
        spin = sign * scale * torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).view(2, 2)
        matrix = torch.eye(3, dtype=torch.float64)
        matrix[:2, :2], matrix[:2, 2] = spin, middle - spin @ middle
        found.append(matrix)
    return found


def _alike(original: Tensor, edited: Tensor, matrix: Tensor) -> float:
    """Correlation of two planes, one laid on the other; what lies outside counts as 0."""
    moved = apply(matrix, grid((original.shape[0], original.shape[1])))
    size = torch.tensor([original.shape[1], original.shape[0]])
    inside = ((moved > -0.5) & (moved < size - 0.5)).all(-1)
    other = sampled(edited[None], moved)[0] * inside
    return float((original * other).mean() / (original.square().mean() * edited.square().mean()).sqrt().clamp_min(1e-6))
