"""Maps between distributions of colors: mean and spread, covariance, histograms, sliced optimal transport.

A *stage* maps points (D, n), D channels of n pixels, and knows nothing of pictures. Stages are made from statistics
(:mod:`.clouds` gathers them) in float64 on the CPU, and applied where the points are. All of them depend on a pixel's
color alone, so they change neither edges nor places.

What a picture hardly has cannot be stretched: a channel, or a direction in color, whose deviation is far below
``noise`` is shifted only, and the way there is smooth, so that no frame of a fade falls on another side of a threshold
than the one before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from .planes import matrixed

#: Bins of a histogram over a channel's range, centered so that 8-bit values fall on the middle of one.
BINS = 255 * 32 + 1
#: Bins of a projection, and projections, of sliced transport.
SLICE_BINS, SLICES = 512, 12
#: What sliced transport draws its directions with.
SEED = 2007

Array = np.ndarray


class Stage(Protocol):
    """A map of points: (D, n) float32 -> the same."""

    def __call__(self, points: Tensor) -> Tensor:
        """(D, n) -> (D, n); what comes in is left alone."""
        ...


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of points.

    :param mean: (D,); ``covariance`` (D, D), divided by n; ``mass`` the sum of weights.
    """

    mean: Array
    covariance: Array
    mass: float

    @property
    def std(self) -> Array:
        """(D,)."""
        return np.sqrt(np.diagonal(self.covariance).clip(0))


@dataclass(frozen=True)
class Grid:
    """Centers of bins: ``low + step * k``, of D channels.

    :param low: (D,); ``step`` (D,), above 0.
    """

    low: tuple[float, ...]
    step: tuple[float, ...]
    bins: int = BINS

    @classmethod
    def over(cls, ends: Sequence[tuple[Array, Array]], bins: int = BINS) -> Grid:
        """From the smallest to the largest values of some sets of points, whose ends are given."""
        low, high = np.minimum.reduce([pair[0] for pair in ends]), np.maximum.reduce([pair[1] for pair in ends])
        step = np.maximum((high - low) / (bins - 1), 1e-9)
        return cls(tuple(low.tolist()), tuple(step.tolist()), bins)

    def centers(self, channel: int) -> Array:
        """(bins,) of one channel."""
        return self.low[channel] + self.step[channel] * np.arange(self.bins)

    def counted(self, points: Tensor, weights: Tensor | None) -> Tensor:
        """(D * bins,): the points, or their weights, that fall into each bin; what lies outside counts at the ends."""
        counts = points.new_zeros(len(points), self.bins)
        for values, low, step, count in zip(points, self.low, self.step, counts, strict=True):
            place = (values - low).mul_(1 / step).add_(0.5).clamp_(0, self.bins - 1).to(torch.int32)
            if weights is None:
                count.copy_(torch.bincount(place, minlength=self.bins))
            else:  # bincount refuses weights on CUDA where results are to be repeatable
                count.scatter_add_(0, place.long(), weights)
        return counts.flatten()


@dataclass(frozen=True)
class Linear:
    """``matrix @ point + offset``."""

    matrix: tuple[tuple[float, ...], ...]
    offset: tuple[float, ...]

    def __call__(self, points: Tensor) -> Tensor:
        """(D, n) -> (D, n)."""
        return matrixed(self.matrix, points, self.offset)


@dataclass(frozen=True)
class Curves:
    """A curve a channel, linear between the centers of a grid and of slope 1 beyond; in turned axes, if wanted.

    :param tables: (D, bins), values at the centers; ``rises`` (D, bins), to the next one's.
    :param turn: (D, D) orthonormal, whose rows are the axes; None for the channels themselves.
    """

    grid: Grid
    tables: Tensor
    rises: Tensor
    turn: tuple[tuple[float, ...], ...] | None = None

    @classmethod
    def of(cls, grid: Grid, tables: Array) -> Curves:
        """From values in float64."""
        rises = np.diff(tables, axis=1, append=tables[:, -1:])
        return cls(grid, torch.from_numpy(tables.astype(np.float32)), torch.from_numpy(rises.astype(np.float32)))

    def to(self, device: torch.device) -> Curves:
        """The same there."""
        return Curves(self.grid, self.tables.to(device), self.rises.to(device), self.turn)

    def __call__(self, points: Tensor) -> Tensor:
        """(D, n) -> (D, n)."""
        turned = points if self.turn is None else matrixed(self.turn, points)
        made = torch.empty_like(turned)
        for channel, values in enumerate(turned):
            step = self.grid.step[channel]
            at = (values - self.grid.low[channel]).mul_(1 / step)
            within = at.clamp(0, self.grid.bins - 1)
            beyond, place = at.sub_(within), within.to(torch.int32)
            line = torch.index_select(self.tables[channel], 0, place, out=made[channel])
            line.addcmul_(within.frac_(), self.rises[channel].index_select(0, place)).add_(beyond, alpha=step)
        return made if self.turn is None else matrixed(tuple(zip(*self.turn, strict=True)), made)


def spread(source: Moments, reference: Moments, noise: float) -> Linear:
    """Each channel's mean and deviation become the reference's (Reinhard et al., IEEE CG&A 2001).

    :param noise: deviation far below which a channel is shifted only.
    """
    own, other = source.std, reference.std
    gain = (own * other + noise**2) / (own**2 + noise**2)
    return _linear(np.diag(gain), source, reference)


def transport(source: Moments, reference: Moments, noise: float) -> Linear:
    """The linear map of least motion to the reference's mean and covariance (Pitie and Kokaram, CVMP 2007).

    ``S^-1/2 (S^1/2 R S^1/2)^1/2 S^-1/2`` for covariances S and R, the optimal transport of one Gaussian to the other.
    Where S has directions without variance, as that of a gray picture has, the formula divides by 0; with ``noise``,
    these are shifted only.
    """
    values, vectors = np.linalg.eigh(source.covariance)
    values = values.clip(0)
    root = (vectors * np.sqrt(values)) @ vectors.T
    inner, turned = np.linalg.eigh(root @ reference.covariance @ root)
    middle = (turned * np.sqrt(inner.clip(0))) @ turned.T
    half = (vectors / np.sqrt(values + noise**2)) @ vectors.T
    return _linear(half @ (middle + noise**2 * np.eye(len(values))) @ half, source, reference)


def histograms(grid: Grid, source: Array, reference: Array, noise: float) -> Curves:
    """Each channel's histogram becomes the reference's, by the monotone map between them.

    A value goes to that of equal rank, where the rank of a bin is that of its middle. So equal histograms give the
    identity. Between the centers of bins the map is linear, and no value is rounded to one.

    :param source: (D, bins) counts on ``grid``; ``reference`` likewise.
    """
    channels = enumerate(zip(source, reference, strict=True))
    return Curves.of(grid, np.stack([_curve(grid.centers(c), own, other, noise) for c, (own, other) in channels]))


def _curve(centers: Array, source: Array, reference: Array, noise: float) -> Array:
    """(bins,): where each center goes."""
    known, there = source.nonzero()[0], reference.nonzero()[0]
    target = np.interp(_ranks(source[known]), _ranks(reference[there]), centers[there])
    curve = np.interp(centers, centers[known], target)
    curve[: known[0]] += centers[: known[0]] - centers[known[0]]
    curve[known[-1] + 1 :] += centers[known[-1] + 1 :] - centers[known[-1]]
    mean = np.average(centers, weights=source)
    share = np.average((centers - mean) ** 2, weights=source)
    share = share / (share + noise**2)
    return share * curve + (1 - share) * (centers - mean + np.average(centers, weights=reference))


def _ranks(counts: Array) -> Array:
    """Shares of all that lie below the middle of each bin."""
    return (np.cumsum(counts) - counts / 2) / counts.sum()


def sliced(source: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor], noise: float) -> tuple[Curves, ...]:
    """The whole distribution becomes the reference's: histograms along fixed directions, one turn after another.

    Pitie, Kokaram and Dahyot (CVIU 2007), "N-dimensional probability density function transfer". Directions are drawn
    once with a fixed seed, so that a picture always gives the same.

    :param source: (D, n) points and their weights (n,); ``reference`` likewise.
    """
    points, weights = source
    there, counted = reference
    stages = []
    for turn in turns(len(points)):
        turned, goal = (matrixed(_rows(turn), each) for each in (points, there))
        grid = Grid.over([_range(turned), _range(goal)], SLICE_BINS)
        found = torch.stack([grid.counted(turned, weights), grid.counted(goal, counted)])
        own, other = found.cpu().double().numpy().reshape(2, len(points), -1)
        curves = histograms(grid, own, other, noise)
        stage = Curves(grid, curves.tables, curves.rises, _rows(turn)).to(points.device)
        points = stage(points)
        stages.append(stage)
    return tuple(stages)


def turns(channels: int) -> list[Array]:
    """Orthonormal axes, the channels' own first."""
    generator = np.random.Generator(np.random.PCG64(SEED))
    found = [np.eye(channels)]
    while len(found) < SLICES:
        axes, triangle = np.linalg.qr(generator.standard_normal((channels, channels)))
        found.append((axes * np.sign(np.diagonal(triangle))).T)  # LAPACK's signs are its own
    return found


def _range(points: Tensor) -> tuple[Array, Array]:
    low, high = torch.stack(torch.aminmax(points, dim=1)).cpu().double().numpy()
    return low, high


def _rows(matrix: Array) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in matrix.tolist())


def _linear(matrix: Array, source: Moments, reference: Moments) -> Linear:
    return Linear(_rows(matrix), tuple((reference.mean - matrix @ source.mean).tolist()))


def pooled(parts: Sequence[tuple[float, Array, Array]]) -> Moments:
    """Moments of several sets of points as one (Chan et al. 1979).

    :param parts: mass, mean (D,) and summed products of what is left beside it (D, D) of each.
    """
    masses = np.array([part[0] for part in parts])
    mass = max(masses.sum(), 1e-30)
    mean = sum(part[0] * part[1] for part in parts) / mass
    products = sum(part[2] + part[0] * np.outer(part[1] - mean, part[1] - mean) for part in parts)
    return Moments(np.asarray(mean), np.asarray(products) / mass, float(masses.sum()))
