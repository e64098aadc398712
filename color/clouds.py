"""Pixels as points in a color space, with their weights, and the statistics of any number of pictures' points as one.

Everything goes a strip at a time, so that beside a picture's own points, which are kept as long as they are few, memory
does not grow with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .devices import strip_pixels
from .matching import Array, Grid, Moments, Stage, pooled
from .planes import matrixed, to_lab

#: In which coordinates distributions are compared.
Space = Literal["CIE Lab", "RGB", "l-alpha-beta"]

#: Pixels of a picture up to which its points are kept from one pass to the next.
KEPT = 2**24
#: Strips after which it is asked whether to go on.
BETWEEN = 8
#: Points that a sample takes of all pictures, at most.
SAMPLE = 2**17

#: Ruderman's l-alpha-beta, as Reinhard et al. (IEEE CG&A 2001) have it: RGB to cone responses, their logarithms to
#: decorrelated axes. What is darker than an 8-bit level counts as one, since there is no logarithm of 0.
_CONES = ((0.3811, 0.5783, 0.0402), (0.1967, 0.7244, 0.0782), (0.0241, 0.1288, 0.8444))
_AXES = ((3**-0.5,) * 3, (6**-0.5, 6**-0.5, -2 * 6**-0.5), (2**-0.5, -(2**-0.5), 0.0))
_DARKEST = 1 / 255
#: Where histograms lie in each space, and deviations far below which there is nothing to stretch.
_LOW = {"CIE Lab": (0.0, -128.0, -128.0), "RGB": (0.0,) * 3, "l-alpha-beta": (-5.0, -2.0, -2.0)}
_HIGH = {"CIE Lab": (100.0, 127.0, 127.0), "RGB": (1.0,) * 3, "l-alpha-beta": (0.5, 2.0, 2.0)}
_NOISE = {"CIE Lab": 0.05, "RGB": 5e-4, "l-alpha-beta": 5e-4}


@dataclass(frozen=True)
class Coordinates:
    """What of a pixel is matched.

    :param space: in which colors are.
    :param chroma: whether a and b alone count, of CIE Lab.
    """

    space: Space
    chroma: bool = False

    @property
    def noise(self) -> float:
        """Deviation far below which a channel is only shifted."""
        return _NOISE[self.space]

    @property
    def grid(self) -> Grid:
        """Bins of histograms: of CIE Lab and RGB all that sRGB has."""
        low, high = (np.array(ends[self.space][self.chroma :]) for ends in (_LOW, _HIGH))
        return Grid.over([(low, high)])

    def of(self, rgb: Tensor) -> Tensor:
        """(3, n) sRGB to the space's channels, (3, n)."""
        if self.space == "RGB":
            return rgb
        if self.space == "CIE Lab":
            return to_lab(rgb)
        return matrixed(_AXES, matrixed(_CONES, rgb.clamp_min(_DARKEST)).log10_())

    def to_rgb(self, points: Tensor) -> Tensor:
        """The way back from l-alpha-beta, not clipped; points of RGB are returned as they are."""
        if self.space == "RGB":
            return points
        cones = matrixed(tuple(zip(*_AXES, strict=True)), points).mul_(math.log2(10)).exp2_()
        return matrixed(np.linalg.inv(np.array(_CONES)).tolist(), cones)


@dataclass
class Cloud:
    """The pixels of one picture as points.

    :param picture: (H, W, 3) in 0..1, any float dtype, on any device.
    :param weights: (H, W), how much each counts; None for all alike.
    :param device: where points lie and statistics are taken.
    """

    picture: Tensor
    weights: Tensor | None
    coordinates: Coordinates
    device: torch.device
    _kept: dict[int, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.picture.shape[0] * self.picture.shape[1]

    def strips(self) -> Iterator[slice]:
        """Places of pixels, row by row, that are worked on at once."""
        size = strip_pixels(self.device)
        for first in range(0, len(self), size):
            yield slice(first, min(len(self), first + size))

    def rgb(self, part: slice) -> Tensor:
        """(3, n) float32 of a strip."""
        pixels = self.picture.reshape(-1, 3)[part].to(self.device)
        planes = torch.empty(3, len(pixels), device=self.device)
        for channel in range(3):  # plane by plane is three times as fast as turned as one
            planes[channel].copy_(pixels[:, channel])
        return planes

    def channels(self, part: slice) -> Tensor:
        """(3, n): a strip in the space's channels; not to be written to."""
        if part.start not in self._kept:
            made = self.coordinates.of(self.rgb(part))
            if len(self) > KEPT:
                return made
            self._kept[part.start] = made
        return self._kept[part.start]

    def points(self, part: slice) -> Tensor:
        """(D, n): what of a strip is matched; not to be written to."""
        channels = self.channels(part)
        return channels[1:] if self.coordinates.chroma else channels

    def weight(self, part: slice) -> Tensor | None:
        """(n,) float32 of a strip; None for all alike."""
        return None if self.weights is None else self.weights.reshape(-1)[part].to(self.device, torch.float32)

    def forget(self) -> None:
        """Let go of the points."""
        self._kept.clear()


class Pool:
    """Several pictures' points as one distribution. What is asked of them as they are is gathered once.

    :param clouds: at least one.
    :param tell: called now and then; what it raises ends the work.

    Points stay from pass to pass where all of them together are few.
    """

    def __init__(self, clouds: Sequence[Cloud], tell: Callable[[], None]) -> None:
        self.clouds, self.tell = clouds, tell
        self.keep = sum(len(cloud) for cloud in clouds) <= KEPT
        self._moments: Moments | None = None
        self._counts: dict[Grid, Array] = {}
        self._range: tuple[Array, Array] | None = None
        self._sample: tuple[Tensor, Tensor] | None = None

    def _walk(self, stages: Sequence[Stage]) -> Iterator[tuple[Tensor, Tensor | None]]:
        for cloud in self.clouds:
            for number, part in enumerate(cloud.strips()):
                if number % BETWEEN == 0:
                    self.tell()
                points = cloud.points(part)
                for stage in stages:
                    points = stage(points)
                yield points, cloud.weight(part)
            if not self.keep:
                cloud.forget()

    def moments(self, stages: Sequence[Stage] = ()) -> Moments:
        """Mean and covariance of the points that stages give."""
        if not stages and self._moments is not None:
            return self._moments
        each = torch.stack([_moments(*strip) for strip in self._walk(stages)]).cpu().double().numpy()
        channels = 2 if self.clouds[0].coordinates.chroma else 3
        found = pooled([(row[0], row[1 : 1 + channels], _symmetric(row[1 + channels :], channels)) for row in each])
        if not stages:
            self._moments = found
        return found

    def counts(self, grid: Grid, stages: Sequence[Stage] = ()) -> Array:
        """(D, bins) histograms of the points that stages give."""
        if not stages and grid in self._counts:
            return self._counts[grid]
        total = torch.zeros(len(grid.low) * grid.bins, dtype=torch.float64)
        for strip in self._walk(stages):
            total += grid.counted(*strip).cpu()  # whole numbers of a strip fit float32, of a film they may not
        found = total.numpy().reshape(-1, grid.bins)
        if not stages:
            self._counts[grid] = found
        return found

    def range(self, stages: Sequence[Stage] = ()) -> tuple[Array, Array]:
        """(D,) smallest and largest values of the points that stages give, of those that count."""
        if not stages and self._range is not None:
            return self._range
        counted = (points if weights is None else points[:, weights > 0] for points, weights in self._walk(stages))
        ends = [torch.stack(torch.aminmax(points, dim=1)) for points in counted if points.numel()]
        both = torch.stack(ends).cpu().double().numpy()
        found = both[:, 0].min(0), both[:, 1].max(0)
        if not stages:
            self._range = found
        return found

    def sample(self) -> tuple[Tensor, Tensor]:
        """(D, n) of at most about :data:`SAMPLE` points that count, evenly spread, and their weights."""
        if self._sample is None:
            every = max(1, -(-sum(len(cloud) for cloud in self.clouds) // SAMPLE))
            points, weights = [], []
            for some, weight in self._walk(()):
                if weight is not None:
                    some, weight = some[:, weight > 0], weight[weight > 0]
                points.append(some[:, ::every])
                weights.append(some.new_ones(points[-1].shape[1]) if weight is None else weight[::every])
            self._sample = torch.cat(points, 1), torch.cat(weights)
        return self._sample


def _moments(points: Tensor, weights: Tensor | None) -> Tensor:
    """(1 + D + D (D + 1) / 2,): mass, mean and products of what is left beside it."""
    if weights is None:
        mass = points.new_full((), points.shape[1])
        mean = points.mean(1)
    else:
        mass = weights.sum()
        mean = (points * weights).sum(1) / mass.clamp_min(1e-30)
    rest = points - mean[:, None]
    weighed = rest if weights is None else rest * weights
    channels = range(len(points))
    products = [torch.dot(weighed[i], rest[j]) for i in channels for j in channels if i <= j]
    return torch.stack([mass, *mean, *products])


def _symmetric(upper: Array, size: int) -> Array:
    matrix = np.zeros((size, size))
    matrix[np.triu_indices(size)] = upper
    return matrix + np.triu(matrix, 1).T
