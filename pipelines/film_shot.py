"""One shot in color: each frame asks the shot's memory; chroma is made steady, and merged with its own lightness."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..color import desaturate, luminance, merge_chroma, resize
from ..color.guided import follow_edges
from ..color.merge import at_size_of
from ..color.registration import boxed
from ..color.steady import Colored, steadied_along
from ..memory.features import Features, FeatureSource
from ..memory.palette import bounded
from .confidence import full_size
from .film_host import FilmFacts, FilmSource
from .film_memory import KeyFrame, ShotMemory, key_chroma
from .film_scores import ShotScores
from .film_settings import FilmSettings
from .memory_answer import Answer, answered, confidence
from .shots import Shot

Part = TypeVar("Part")

#: Longest side at which colors are followed from frame to frame, where the network sees frames at their own size.
LONGEST = 512
#: Of a frame's places, every so many tell in both directions which source a region takes its colors from.
AGREED = 3
#: Frames among which the surest is looked for.
PROBES = 8


class FewerAtOnce(Exception):
    """Memory ran out; the shot begins anew with fewer frames in one model call."""


@dataclass
class Asking:
    """How frames are read and asked. Lifetime: one film.

    Every model call has :attr:`batch` rows, the last one's frame repeated where there are fewer: the last bits of a
    row depend on how many there are, and a shot that is colored once more, after others or alone, is to be the same.
    """

    film: FilmSource
    network: FeatureSource
    settings: FilmSettings
    out_of_memory: Callable[[Exception], bool]
    device: torch.device | None
    batch: int = field(init=False)
    size: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        self.batch = self.settings.asking.batch
        self.size = size_to_follow(self.film.facts, self.settings.asking.features.resolution)

    def features(self, pictures: Tensor) -> Features:
        """(n, H, W, 3) without color, at most :attr:`batch` of them -> their features.

        :raises FewerAtOnce: memory ran out.
        """
        count = len(pictures)
        if count < self.batch:
            pictures = torch.cat([pictures, pictures[-1:].expand(self.batch - count, -1, -1, -1)])
        try:
            return self.network.features(pictures).take(slice(0, count))
        except Exception as error:
            if self.batch == 1 or not self.out_of_memory(error):
                raise
        self.batch //= 2
        raise FewerAtOnce

    def answer(self, features: Features, memory: ShotMemory, number: int) -> Answer:
        """What a memory says of one frame."""
        prior = memory.prior(number, self.settings.key_reach)
        return answered(features, memory.memory, self.settings.asking, self.device, prior, AGREED)


def size_to_follow(facts: FilmFacts, resolution: int) -> tuple[int, int]:
    """(height, width) at which colors are followed: the area at which the network sees frames, or their own size."""
    height, width = facts.height, facts.width
    scale = min(1.0, resolution / math.sqrt(height * width) if resolution else LONGEST / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def surest(
    asking: Asking, shot: Shot, memory: ShotMemory, on_probe: Callable[[], None] = lambda: None
) -> tuple[int, Tensor]:
    """The frame of a shot, among :data:`PROBES`, that a memory is surest of: number, and gray picture (1, H, W, 3).

    :param on_probe: called before each of them; what it raises ends the work.
    """
    best: tuple[float, int, Tensor] | None = None
    for numbers in _parts(iter(spread_over(shot, PROBES)), asking.batch):
        grays = []
        for number in numbers:
            on_probe()
            frame = next(iter(asking.film.frames(number, number + 1)))
            grays.append(desaturate(frame.picture[None].float()))
        features = asking.features(torch.cat(grays))
        for place, (number, gray) in enumerate(zip(numbers, grays, strict=True)):
            found = asking.answer(features.take(slice(place, place + 1)), memory, number).found
            sure = float(confidence(found.spread).mean())
            if best is None or sure > best[0]:
                best = (sure, number, gray)
    assert best is not None
    return best[1], best[2]


def spread_over(shot: Shot, most: int) -> list[int]:
    """Numbers of at most so many frames, evenly spread over a shot, in the middles of equal parts."""
    count = min(most, len(shot))
    return [shot.start + (2 * i + 1) * len(shot) // (2 * count) for i in range(count)]


def color_shot(
    asking: Asking, shot: Shot, memory: ShotMemory, keys: Sequence[KeyFrame], scores: ShotScores
) -> Iterator[tuple[Any, Tensor]]:
    """Every frame of a shot, in order, with its colored picture, (H, W, 3).

    Full-size frames are read twice: once to be asked, and once more, so much later as steadiness looks ahead, to be
    merged. So what waits is small.

    :param keys: whose colors are as they are given.
    :param scores: takes what is known of each frame.
    """
    settings = asking.settings
    waiting: deque[Colored] = deque()
    asked = _asked(asking, shot, memory, {key.number: key for key in keys}, waiting, scores)
    later = iter(asking.film.frames(shot.start, shot.stop))
    pins = [key.number - shot.start for key in keys]
    for chroma in steadied_along(asked, keep=settings.steadiness, ahead=settings.ahead, pins=pins):
        frame, own = next(later), waiting.popleft()
        if settings.steadiness > 0:
            chroma = _along_edges(chroma, own)
        chroma = bounded(chroma, own.lightness, memory.memory.palettes)
        picture = merge_chroma(chroma[None], frame.picture[None].float())[0]
        scores.shown(frame.index, picture)
        yield frame, picture


def _asked(
    asking: Asking,
    shot: Shot,
    memory: ShotMemory,
    keys: dict[int, KeyFrame],
    waiting: deque[Colored],
    scores: ShotScores,
) -> Iterator[Colored]:
    """The frames' own colors, small, in order; each waits until it is steady."""
    for frames in _parts(asking.film.frames(shot.start, shot.stop), asking.batch):
        grays = [desaturate(frame.picture[None].float()) for frame in frames]
        features = asking.features(torch.cat(grays))
        for place, (frame, gray) in enumerate(zip(frames, grays, strict=True)):
            own = features.take(slice(place, place + 1))
            answer = asking.answer(own, memory, frame.index)
            lightness = luminance(resize(gray, asking.size))
            chroma = at_size_of(lightness[..., None], answer.chroma * asking.settings.asking.saturation, "guided")[0]
            sure = confidence(answer.found.spread).view(1, *own.grid)
            key = keys.get(frame.index)
            scores.asked(frame.index, own, answer, None if key is None else key.mask, key is not None)
            colored = _pinned(Colored(lightness[0], chroma, full_size(sure, asking.size)[0].clamp(0, 1)), key)
            waiting.append(colored)
            yield colored


def _along_edges(chroma: Tensor, own: Colored) -> Tensor:
    """Steady chroma (h, w, 2) put right by the frame's edges, but where it is given."""
    followed = follow_edges(chroma, boxed(own.lightness, 1, 2))
    return followed if own.pinned is None else torch.lerp(followed, chroma, own.pinned.clamp(0, 1)[..., None])


def _pinned(colored: Colored, key: KeyFrame | None) -> Colored:
    """A frame with the colors that are given for it."""
    if key is None:
        return colored
    chroma, given = key_chroma(key, (colored.lightness.shape[0], colored.lightness.shape[1]))
    return Colored(
        colored.lightness, torch.lerp(colored.chroma, chroma, given[..., None]), colored.confidence, pinned=given
    )


def _parts(each: Iterator[Part], most: int) -> Iterator[list[Part]]:
    """Frames or their numbers, so many at once, counted from the first."""
    part = []
    for one in each:
        part.append(one)
        if len(part) == most:
            yield part
            part = []
    if part:
        yield part
