"""Shots of a film: where they are cut, and which are in color already.

Frames are looked at small, once, in order; a few of them are kept. Two frames are alike where one correlates with the
other shifted (a pan), whatever the light (correlation has no mean and no gain); how their histograms differ says the
rest. A hard cut is a change that stands out from those around it, so that a whip pan is none, and across which no pair
of near frames is alike, so that a flash is none. A dissolve is told by its middle being a mix of both ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..color import rgb_to_lab
from .film_settings import ShotSettings

#: Longest side at which a film is looked at, for ``FilmSource.small``.
LOOKED_AT = 128
#: Of what is compared, (height, width).
SIZE = (36, 64)
#: Least overlap of a frame with the shifted other one.
OVERLAP = 0.4
#: Side of the window of which a place's difference from the mean is compared, odd.
SMOOTH = 9
#: Deviation of lightness (0..1) below which a frame shows nothing: a black one, a white one.
BLANK = 0.012
#: How much a change must stand out from the median of those around it.
STANDS_OUT = 2.0
#: How much it must stand out, from the largest of those around it, to be a cut also where it is smaller; and the
#: smallest part of what a cut must have that it then has.
FAR_OUT, SMALLER = 2.5, 0.75
#: Frames on each side of a change that say what is usual.
AROUND = 8
#: Half lengths of the dissolves that are looked for, in frames.
DISSOLVES = (6, 12, 20)
#: Largest part of the ends' difference that a dissolve's frames may have beside a mix of both.
UNMIXED = 0.3
#: How far the mix of a dissolve's frames may be from even progress.
UNEVEN = 0.17
#: Least contrast of one end of a dissolve beside the other.
DIM = 0.3
#: Most detail of a dissolve's middle beside its ends': a half of each of two unlike pictures has 0.71. It is 0.65 to
#: 0.82 in the middles of dissolves that were measured, and 0.87 to 0.92 where a large thing only came or went.
MIXED_DETAIL = 0.85
#: Share of the places that may be less colored than what a frame is judged by.
_QUANTILE = 0.9


@dataclass(frozen=True)
class Shot:
    """Frames ``start`` up to but without ``stop``; ``colored`` says that they have color already."""

    start: int
    stop: int
    colored: bool = False

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class _Look:
    """One frame, small.

    :param light: (h, w) in 0..1; ``spectrum`` that of its detail.
    :param first: mean and deviation, (2, 2 h, 2 w), of what it shows beside another frame, for each shift of that one.
    :param second: the same for each shift of its own.
    :param histogram: (64,), of lightness.
    :param deviation: of lightness.
    """

    light: Tensor
    spectrum: Tensor
    first: Tensor
    second: Tensor
    histogram: Tensor
    deviation: float

    @property
    def blank(self) -> bool:
        return self.deviation < BLANK

    @property
    def detail(self) -> float:
        """Deviation of lightness without what is smooth."""
        return float(self.first[1, 0, 0])


def find_shots(frames: Iterable[Any], settings: ShotSettings) -> list[Shot]:
    """The shots of a film, one after another, without a gap.

    :param frames: all of them in order, ``film_host.FilmFrame``; they may be small (:data:`LOOKED_AT`).
    :param settings: with listed cuts, only color is looked at.
    :raises ValueError: no frame at all, or a listed cut beyond the end.
    """
    cuts, color = list(settings.listed), []
    finder = None if cuts else _Cuts(settings)
    for frame in frames:
        picture = frame.picture.float()
        color.append(color_of(picture) > settings.colored_above)
        if finder is not None:
            finder.add(picture)
    if not color:
        raise ValueError("film: found no frame in it, expected at least one; look whether the file is whole.")
    if finder is not None:
        cuts = [0, *finder.done()]
    if cuts[-1] >= len(color):
        raise ValueError(
            f"cuts: found a shot that begins at frame {cuts[-1]}, but the film has {len(color)} frames, counted from "
            "0; leave it out."
        )
    return [
        shot
        for start, stop in pairwise([*cuts, len(color)])
        for shot in _by_color(start, color[start:stop], settings.shortest)
    ]


def color_of(picture: Tensor) -> float:
    """Chroma (CIE Lab) that nine of ten places of a picture, (H, W, 3) in 0..1, do not exceed, beyond an even tint.

    A toned print's chroma is a smooth function of its lightness; what a fitted one leaves is color.
    """
    lab = rgb_to_lab(_shrunk(picture, LOOKED_AT // 2)[None].clamp(0, 1))[0].reshape(-1, 3)
    lightness, chroma = lab[:, 0] / 100, lab[:, 1:]
    powers = torch.stack([torch.ones_like(lightness), lightness, lightness.square()], -1)
    gram = powers.T @ powers + 1e-3 * torch.eye(3)
    rest = chroma - powers @ torch.linalg.solve(gram, powers.T @ chroma)
    return float(rest.norm(dim=-1).quantile(_QUANTILE))


def _shrunk(picture: Tensor, longest: int) -> Tensor:
    """(H, W, 3) with a longest side of at most so many pixels."""
    height, width = picture.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return picture
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return F.adaptive_avg_pool2d(picture.movedim(-1, 0), size).movedim(0, -1)


def _by_color(start: int, color: Sequence[bool], shortest: int) -> Iterator[Shot]:
    """A shot, cut where color comes or goes for good."""
    runs: list[list] = []  # [is it colored, frames]
    for colored in color:
        if runs and runs[-1][0] == colored:
            runs[-1][1] += 1
        else:
            runs.append([colored, 1])
    while len(runs) > 1:  # what is over soon belongs to what is around it, the shortest first
        least = min(range(len(runs)), key=lambda i: runs[i][1])
        if runs[least][1] >= shortest:
            break
        beside = [i for i in (least - 1, least + 1) if 0 <= i < len(runs)]
        runs[least][0] = runs[max(beside, key=lambda i: runs[i][1])][0]
        joined: list[list] = []
        for colored, frames in runs:
            if joined and joined[-1][0] == colored:
                joined[-1][1] += frames
            else:
                joined.append([colored, frames])
        runs = joined
    for colored, frames in runs:
        yield Shot(start, start + frames, colored)
        start += frames


class _Cuts:
    """Looks for cuts while frames come. Lifetime: one film; a few dozen small frames are kept."""

    def __init__(self, settings: ShotSettings) -> None:
        self.settings = settings
        self.least = 0.8 - 0.5 * settings.sensitivity  # change that a cut must have
        self.reach = max(DISSOLVES[-1] if settings.dissolves else 0, settings.shortest, AROUND) + 1
        self.kept: deque[_Look] = deque(maxlen=2 * self.reach + 1)
        self.changes: deque[float] = deque(maxlen=2 * self.reach + 1)  # of each kept frame from the one before it
        self.count = 0
        self.found: list[tuple[int, float]] = []  # first frame of a shot, and how clear the cut is
        self.mixes: list[tuple[int, float]] = []

    def add(self, picture: Tensor) -> None:
        """:param picture: (H, W, 3), the next frame."""
        look = _look(picture)
        self.changes.append(_change(self.kept[-1], look) if self.kept else 0.0)
        self.kept.append(look)
        self.count += 1
        if self.count > self.reach:
            self._judge(self.count - 1 - self.reach)

    def done(self) -> list[int]:
        """First frames of all shots but the film's first, ascending."""
        for number in range(max(0, self.count - self.reach), self.count):
            self._judge(number)
        cuts = _clearest(self.found, self.settings.shortest)
        mixes = _clearest(self.mixes, 2 * DISSOLVES[0])
        near = max(DISSOLVES[0], self.settings.shortest)
        cuts += [number for number in mixes if all(abs(number - cut) > near for cut in cuts)]
        return sorted(
            number for number in cuts if self.settings.shortest <= number <= self.count - self.settings.shortest
        )

    def _at(self, number: int) -> int | None:
        """Place of a frame among those that are kept."""
        place = number - (self.count - len(self.kept))
        return place if 0 <= place < len(self.kept) else None

    def _judge(self, number: int) -> None:
        place = self._at(number)
        if place is None or place == 0:
            return
        change = self.changes[place]
        around = [
            self.changes[i]
            for i in range(max(1, place - AROUND), min(len(self.changes), place + AROUND + 1))
            if i != place
        ]
        usual = median(around) if around else 0.0
        least = SMALLER * self.least if change > FAR_OUT * max(around, default=1.0) else self.least
        if change > least and change > STANDS_OUT * usual and not self._comes_back(place):
            self.found.append((number, change))
        elif self.settings.dissolves:
            clear = max((self._mixed(place, half) for half in DISSOLVES), default=0.0)
            if clear > 0:
                self.mixes.append((number, clear))

    def _comes_back(self, place: int) -> bool:
        """Whether what was there before a change is there after it, too."""
        reach = self.settings.shortest
        before = [self.kept[i] for i in range(max(0, place - reach), place) if not self.kept[i].blank]
        after = [self.kept[i] for i in range(place, min(len(self.kept), place + reach)) if not self.kept[i].blank]
        return any(_change(one, other) < self.least / 2 for one in reversed(before) for other in after)

    def _mixed(self, place: int, half: int) -> float:
        """How clearly the frames around one are mixes of those at both ends; 0 where they are not."""
        first, last = place - half, place + half - 1
        if first < 0 or last >= len(self.kept):
            return 0.0
        one, other = self.kept[first], self.kept[last]
        dim, bright = sorted((one.deviation, other.deviation))
        if dim < max(BLANK, DIM * bright):  # a fade, or a lamp; a cut is at its darkest frame
            return 0.0
        apart = other.light - one.light
        total = float(apart.square().sum())
        worst = 0.0
        for share in (0.25, 0.5, 0.75):
            middle = self.kept[first + round(share * (last - first))].light - one.light
            mix = float((middle * apart).sum()) / max(total, 1e-9)
            if abs(mix - share) > UNEVEN:
                return 0.0
            rest = float((middle - mix * apart).square().sum())
            worst = max(worst, (rest / max(total, 1e-9)) ** 0.5)
        if worst > UNMIXED or _change(one, other) < self.least:
            return 0.0
        ends = ((one.detail**2 + other.detail**2) / 2) ** 0.5
        return 1 - worst if self.kept[place].detail < MIXED_DETAIL * ends else 0.0


def _clearest(found: Sequence[tuple[int, float]], apart: int) -> list[int]:
    """Of what is closer together than ``apart`` the clearest, ascending."""
    kept: list[int] = []
    for number, _ in sorted(found, key=lambda each: (-each[1], each[0])):
        if all(abs(number - other) >= apart for other in kept):
            kept.append(number)
    return sorted(kept)


def _look(picture: Tensor) -> _Look:
    # a video's gray, not L: it is all about what changes
    light = picture @ picture.new_tensor([0.2126, 0.7152, 0.0722])
    small = F.adaptive_avg_pool2d(light[None], SIZE)[0]
    deviation = float(small.std())
    histogram = torch.histc(light, 64, 0, 1) / light.numel()
    # without what is smooth: of soft pictures any two correlate somewhere
    smooth = F.avg_pool2d(small[None], SMOOTH, 1, SMOOTH // 2, count_include_pad=False)[0]
    level = small - smooth
    spectrum, square = _spectrum(level), _spectrum(level.square())
    ones = _spectrum(torch.ones(SIZE))
    first, second = (
        _moments(_summed(a, b), _summed(c, d))
        for a, b, c, d in ((spectrum, ones, square, ones), (ones, spectrum, ones, square))
    )
    return _Look(small, spectrum, first, second, histogram, deviation)


def _spectrum(plane: Tensor) -> Tensor:
    return torch.fft.rfft2(plane, s=(2 * SIZE[0], 2 * SIZE[1]))


def _summed(one: Tensor, other: Tensor) -> Tensor:
    """Sums of products over the overlap for each shift, from spectra."""
    return torch.fft.irfft2(one * other.conj(), s=(2 * SIZE[0], 2 * SIZE[1]))


def _overlap() -> Tensor:
    """(2 h, 2 w): places that two frames share, for each shift."""
    rows, columns = (side - torch.cat([torch.arange(side), torch.arange(side, 0, -1)]) for side in SIZE)
    return torch.outer(rows, columns).clamp_min(1).float()


def _moments(total: Tensor, squares: Tensor) -> Tensor:
    mean = total / _overlap()
    return torch.stack([mean, (squares / _overlap() - mean.square()).clamp_min(BLANK**2).sqrt()])


def _change(one: _Look, other: _Look) -> float:
    """How unlike two frames are, 0..1."""
    if one.blank or other.blank:
        return 0.0 if one.blank and other.blank else 1.0
    histograms = _moved_apart(one.histogram, other.histogram)
    return (1 - _correlation(one, other)) * (0.7 + 0.3 * min(1.0, histograms))


def _moved_apart(one: Tensor, other: Tensor) -> float:
    """Earth mover's distance of two histograms of lightness, of a quarter of the range, but for a shift of all."""
    apart = (one - other).cumsum(0)
    return float((apart - apart.median()).abs().sum() / 16)


def _correlation(one: _Look, other: _Look) -> float:
    """Highest normalized correlation of a frame with the shifted other one, over what both show then: 0..1."""
    overlap = _overlap()
    both = _summed(one.spectrum, other.spectrum) / overlap - one.first[0] * other.second[0]
    correlation = both / (one.first[1] * other.second[1])
    return float(correlation[overlap >= OVERLAP * SIZE[0] * SIZE[1]].max().clamp(0, 1))
