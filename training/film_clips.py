"""A rendered clip as a film to be colored, its truth beside it, and what is measured of frames that come one by one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from comfyui_exemplar.color import desaturate, resize, rgb_to_lab, to_uint8
from comfyui_exemplar.memory.features import Features, FeatureSource, joined_features

from .clips import Clip

#: Steps at which color distributions are compared.
STEPS = (1, 2, 4)
_BINS = 256


class Truth:
    """A clip's frames, kept: 150 kB each at 128 pixels."""

    def __init__(self, clip: Clip) -> None:
        self.clip, self.count = clip, clip.frame_count
        self.shots = [clip.shot_of(number) for number in range(self.count)]
        frames = list(clip.frames())
        self.color = torch.stack([to_uint8(frame.color) for frame in frames])
        self.clean = torch.stack([to_uint8(frame.clean) for frame in frames])
        self.histograms = torch.stack([histogram(picture) for picture in self.color])
        self._flows: dict[int, tuple[Tensor, Tensor]] = {}

    def gray(self, number: int) -> Tensor:
        """(H, W, 3), what is to be colored."""
        return desaturate(self.color[number][None].float() / 255, "rec601_8bit")[0]

    def key(self, number: int) -> Tensor:
        """(1, H, W, 3), the frame in its own colors."""
        return self.color[number][None].float() / 255

    def chroma(self, number: int) -> Tensor:
        """(H, W, 2), without grain."""
        return rgb_to_lab(self.clean[number][None].float() / 255)[0, ..., 1:]

    def flow(self, number: int) -> tuple[Tensor, Tensor]:
        """Where a frame's pixels are in the next one, (H, W, 2) float16 pixels, and whether they are seen there."""
        if number not in self._flows:
            displacement, seen = self.clip.flow(number, number + 1)
            self._flows[number] = displacement.half(), seen
        return self._flows[number]

    @cached_property
    def middles(self) -> list[int]:
        """The middle frame of each shot."""
        return [scene.middle for scene in self.clip.scenes]


class ClipFilm:
    """Frames of a clip as a film.

    :param numbers: which of them, in order; None for all. The film's own numbers begin at 0.
    """

    def __init__(self, truth: Truth, numbers: Sequence[int] | None = None) -> None:
        self.truth, self.numbers = truth, range(truth.count) if numbers is None else numbers
        size = truth.clip.size
        self.facts = SimpleNamespace(width=size, height=size, frames=len(self.numbers))

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[SimpleNamespace]:
        for number in range(start, len(self.numbers) if stop is None else min(stop, len(self.numbers))):
            yield SimpleNamespace(index=number, picture=self.truth.gray(self.numbers[number]))

    def small(self, longest: int) -> Iterator[SimpleNamespace]:
        side = min(longest, self.truth.clip.size)
        for frame in self.frames():
            yield SimpleNamespace(index=frame.index, picture=resize(frame.picture[None], (side, side))[0])


class MeasuringSink:
    """Measures what is written to it, in place of keeping it."""

    def __init__(self, measured: Measured, numbers: Sequence[int] | None = None) -> None:
        self.measured, self.numbers = measured, numbers
        self.scores: dict[int, dict[str, Any]] = {}

    def check(self) -> None:
        pass

    def begin(self, shots: Sequence[tuple[int, int]]) -> Mapping[int, Mapping[str, Any]]:
        return {}

    @contextmanager
    def shot(self, number: int) -> Iterator[SimpleNamespace]:
        def write(frame: Any, picture: Tensor) -> None:
            self.measured.add(frame.index if self.numbers is None else self.numbers[frame.index], picture)

        self.scores[number] = {}
        yield SimpleNamespace(write=write, scores=self.scores[number])

    def finish(self) -> None:
        pass


class KnownFeatures:
    """A network that is asked for each picture once. Lifetime: one clip.

    What several ways of coloring share is so paid for once; no way sees other features than without it, but for the
    last bits that depend on what else is in a batch.
    """

    def __init__(self, network: FeatureSource) -> None:
        self.network = network
        self.fingerprint, self.name, self.spaces = network.fingerprint, network.name, network.spaces
        self._kept: dict[bytes, Features] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    def features(self, pictures: Tensor) -> Features:
        keys = [picture.mul(255).round().byte().numpy().tobytes() for picture in pictures]
        missing = {key: i for i, key in enumerate(keys) if key not in self._kept}
        if missing:
            made = self.network.features(pictures[list(missing.values())])
            for place, key in enumerate(missing):
                self._kept[key] = made.take(slice(place, place + 1))
        return joined_features([self._kept[key] for key in keys])


@dataclass
class Measured:
    """Numbers of one way of coloring a clip, from frames that come in order, perhaps with gaps."""

    truth: Truth
    error: dict[int, float] = field(default_factory=dict)
    #: sums of (its own, the truth's, pairs of frames): change of chroma along the motion, and for each step the
    #: divergence of color distributions; pairs lie in one shot.
    warp: list[float] = field(default_factory=lambda: [0.0, 0.0, 0])
    divergence: dict[int, list[float]] = field(default_factory=lambda: {step: [0.0, 0.0, 0] for step in STEPS})
    _last: deque[tuple[int, Tensor, Tensor, Tensor]] = field(default_factory=lambda: deque(maxlen=max(STEPS)))

    def add(self, number: int, picture: Tensor) -> None:
        """Take a frame's picture, (H, W, 3) in 0..1."""
        truth, chroma = self.truth.chroma(number), rgb_to_lab(picture[None].float())[0, ..., 1:]
        self.error[number] = float((chroma - truth).norm(dim=-1).mean())
        counts = histogram(to_uint8(picture))
        for before, *_, their_counts in self._last:
            step = number - before
            if step in self.divergence and self.truth.shots[before] == self.truth.shots[number]:
                own = jensen_shannon(their_counts, counts)
                true = jensen_shannon(self.truth.histograms[before], self.truth.histograms[number])
                _count(self.divergence[step], own, true)
        if self._last and self._last[-1][0] == number - 1 and self.truth.shots[number - 1] == self.truth.shots[number]:
            displacement, seen = self.truth.flow(number - 1)
            own, true = (
                _moved(before, after, displacement.float(), seen)
                for before, after in ((self._last[-1][1], chroma), (self._last[-1][2], truth))
            )
            _count(self.warp, own, true)
        self._last.append((number, chroma, truth, counts))

    def written(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "error": {str(number): round(value, 4) for number, value in self.error.items()},
            "warp": self.warp,
            "divergence": {str(step): sums for step, sums in self.divergence.items()},
        }


def histogram(picture: Tensor) -> Tensor:
    """(H, W, 3) uint8 -> (3, 256), the share of pixels with each value."""
    values = picture.reshape(-1, 3).long() + torch.arange(3) * _BINS
    return torch.bincount(values.flatten(), minlength=3 * _BINS).view(3, _BINS).float() / (values.numel() / 3)


def jensen_shannon(one: Tensor, other: Tensor) -> float:
    """Divergence of distributions (3, 256), natural logarithms, mean over channels."""
    middle = (one + other) / 2
    found = sum(torch.special.xlogy(each, each) - torch.special.xlogy(each, middle) for each in (one, other))
    return float(found.sum(-1).mean() / 2)


def _moved(before: Tensor, after: Tensor, displacement: Tensor, seen: Tensor) -> float:
    """How far chroma changes along the motion, mean over what is seen in both frames, Lab units."""
    height, width = seen.shape
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    grid = (torch.stack([x, y], -1) + displacement) / torch.tensor([width, height]) * 2 - 1
    there = F.grid_sample(after.movedim(-1, 0)[None], grid[None], padding_mode="border", align_corners=False)[0]
    return float((there.movedim(0, -1) - before).norm(dim=-1)[seen].mean())


def _count(sums: list[float], own: float, true: float) -> None:
    for place, value in enumerate((own, true, 1)):
        sums[place] += value
