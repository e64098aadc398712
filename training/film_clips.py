"""A rendered clip as a film to be colored, its truth beside it, and what is measured of frames that come one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from comfyui_exemplar.color import desaturate, resize, rgb_to_lab, to_uint8
from comfyui_exemplar.color.film_metrics import STEPS, cdc, warp_error
from comfyui_exemplar.memory.features import Features, FeatureSource, joined_features

from .clips import Clip


class Truth:
    """A clip's frames, kept: 250 kB each at 128 pixels."""

    def __init__(self, clip: Clip) -> None:
        self.clip, self.count = clip, clip.frame_count
        self.shots = [clip.shot_of(number) for number in range(self.count)]
        frames = list(clip.frames())
        self.color = torch.stack([to_uint8(frame.color) for frame in frames])
        self.clean = torch.stack([to_uint8(frame.clean) for frame in frames])
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
        """Where a frame's pixels were in the one before, (H, W, 2) pixels, and whether they are seen there."""
        if number not in self._flows:
            self._flows[number] = self.clip.flow(number, number - 1)
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
    #: Sums of its own and of the truth's, and how many: the change of chroma along the motion, over pairs of
    #: neighboring frames; the divergence of color distributions, over runs of frames, which count by their length.
    #: Both lie within shots.
    warp: list[float] = field(default_factory=lambda: [0.0, 0.0, 0])
    divergence: list[float] = field(default_factory=lambda: [0.0, 0.0, 0])
    _run: list[tuple[int, Tensor]] = field(default_factory=list)
    _last: tuple[Tensor, Tensor] | None = None

    def add(self, number: int, picture: Tensor) -> None:
        """Take a frame's picture, (H, W, 3) in 0..1."""
        truth, chroma = self.truth.chroma(number), rgb_to_lab(picture[None].float())[0, ..., 1:]
        self.error[number] = float((chroma - truth).norm(dim=-1).mean())
        follows = self._run and self._run[-1][0] == number - 1
        if not follows or self.truth.shots[number - 1] != self.truth.shots[number]:
            self._end_of_run()
        elif self._last is not None:
            flow = self.truth.flow(number)
            pairs = ((self._last[0], chroma), (self._last[1], truth))
            _count(self.warp, *(warp_error(pair, flows=[flow]) for pair in pairs), 1)
        self._run.append((number, to_uint8(picture)))
        self._last = chroma, truth

    def _end_of_run(self) -> None:
        if len(self._run) > max(STEPS):
            own = cdc(picture.float() / 255 for _, picture in self._run)
            true = cdc(self.truth.color[number].float() / 255 for number, _ in self._run)
            _count(self.divergence, own, true, len(self._run))
        self._run.clear()

    def written(self) -> dict[str, Any]:
        """As JSON holds it."""
        self._end_of_run()
        error = {str(number): round(value, 4) for number, value in self.error.items()}
        return {"error": error, "warp": self.warp, "divergence": self.divergence}


def _count(sums: list[float], own: float, true: float, weight: int) -> None:
    for place, value in enumerate((own * weight, true * weight, weight)):
        sums[place] += value
