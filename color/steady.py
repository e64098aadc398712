"""Chroma that neither flickers nor drifts: what was found for each frame of a shot, averaged along its motion.

A filter in information form (Kalman's, with a fading memory), from both sides (as Rauch, Tung and Striebel 1965): every
place carries a mean of chroma and a precision. From frame to frame both go along the optical flow; the precision loses
a share, and all of it where the flow is not believed (:mod:`.frame_flow`), so that nothing leaks over an occlusion or a
cut. A frame's own chroma counts by its confidence. What is given (pinned) is very precise: it holds on its frame and
is carried on from there.

The recursion forward sees all frames before. The one backward begins at most ``ahead`` frames later, or three times as
many where chroma is given there, so a bounded number of planes waits, however long the shot is.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .frame_flow import Link, Look, links_between

#: Added to the doubt of a confidence, so that a full one has no endless precision; and the least precision.
DOUBT, LEAST = 0.05, 1e-3
#: Precision of chroma that is given, in the most that can be found in all frames together. It is heard of for about
#: sixty frames. With more, what the flow has laid on wrong places outweighs for too long what is found there.
GIVEN = 3.0
#: How many times as far ahead what is given is looked for as what is found. So far from it, it is worth little.
FARTHER = 3


@dataclass(frozen=True)
class Colored:
    """A frame of a shot with the colors that were found for it. Float32 planes on the CPU.

    :param lightness: (h, w), CIE L.
    :param chroma: (h, w, 2), a and b in Lab units.
    :param confidence: (h, w) in 0..1.
    :param pinned: (h, w) in 0..1, 1 where chroma is given and stays; None where nothing is.
    """

    lightness: Tensor
    chroma: Tensor
    confidence: Tensor
    pinned: Tensor | None = None

    def check(self, size: tuple[int, ...]) -> None:
        """:raises ValueError: planes that do not fit each other or the shot's first frame of some (h, w)."""
        planes = {"lightness": self.lightness, "confidence": self.confidence, "chroma": self.chroma[..., 0]}
        if self.pinned is not None:
            planes["pinned"] = self.pinned
        for name, plane in planes.items():
            if tuple(plane.shape) != tuple(size):
                raise ValueError(
                    f"steadied_along: found {name} of {tuple(plane.shape)}, expected {tuple(size)} as the first "
                    "frame's lightness; resize it."
                )


@dataclass
class _Waiting:
    """A frame whose result waits for later ones.

    :param before: (3, h, w), precision, and precision times chroma, that come from the frames before.
    :param own: (3, h, w), the same of its own.
    :param on: where its places are in the next frame; None as long as there is none.
    """

    frame: Colored
    before: Tensor
    own: Tensor
    on: Link | None = field(default=None)


def steadied_along(
    frames: Iterable[Colored], *, keep: float = 0.94, ahead: int = 20, pins: Sequence[int] = ()
) -> Iterator[Tensor]:
    """Steady chroma of one shot's frames, which come one after another.

    A frame's result comes when ``ahead`` later ones are there, or when there are no more; it depends on no frame but
    those before, at most ``ahead`` after, and those up to :data:`FARTHER` times as many after whose chroma is given. At
    most so many and one are kept.

    :param frames: of one size, in order.
    :param keep: 0..1, below 1: the share of what is known that is left after each frame. 0 leaves chroma as it is.
    :param ahead: frames that are looked ahead, at least three quarters of them from every frame; 0 uses the past alone.
    :param pins: places of the frames whose chroma is given, counted from 0, ascending, as far as they are known.
    :returns: (h, w, 2) for each frame, in order.
    :raises ValueError: for values or frames that do not fit.
    """
    if not 0 <= keep < 1:
        raise ValueError(f"steadied_along: found keep {keep}, expected 0 or more and below 1.")
    if ahead < 0:
        raise ValueError(f"steadied_along: found {ahead} frames ahead, expected 0 or more.")
    return _steadied(frames, keep, ahead, pins)


def _steadied(frames: Iterable[Colored], keep: float, ahead: int, pins: Sequence[int]) -> Iterator[Tensor]:
    waiting: deque[_Waiting] = deque()
    sight = (FARTHER * ahead if pins else ahead) - ahead // 4
    first, wanted = 0, _ahead_of(0, ahead, pins)
    before: Look | None = None
    for frame in frames:
        frame.check(waiting[0].frame.lightness.shape if waiting else frame.lightness.shape)
        look = Look.of(frame.lightness)
        own = _own(frame, keep)
        known = torch.zeros_like(own)
        if waiting and before is not None:
            last = waiting[-1]
            back, last.on = links_between(before, look)
            known = _carried(last.before + last.own, back, keep)
            if len(waiting) > wanted:
                done = wanted // 4 + 1
                yield from _results(waiting, done, keep, sight)
                first += done
                wanted = _ahead_of(first, ahead, pins)
        waiting.append(_Waiting(frame, known, own))
        before = look
    yield from _results(waiting, len(waiting), keep, sight)


def _ahead_of(place: int, ahead: int, pins: Sequence[int]) -> int:
    """How many frames after one count for it: more than usual if one of them is given."""
    return max([ahead, *(pin - place for pin in pins if place < pin <= place + FARTHER * ahead)])


def _own(frame: Colored, keep: float) -> Tensor:
    """(3, h, w): precision of a frame's own chroma, and the two multiplied.

    A confidence is 1 / (1 + variance) in some unit (``pipelines.memory.confidence``), so its odds are the precision.
    """
    sure = frame.confidence.clamp(0, 1)
    precision = (sure / (1 + DOUBT - sure)).clamp_min(LEAST)
    if frame.pinned is not None:
        given = GIVEN / DOUBT / (1 - keep)
        precision = torch.lerp(precision, torch.full_like(precision, given), frame.pinned.clamp(0, 1))
    return torch.cat([precision[None], precision * frame.chroma.movedim(-1, 0)])


def _carried(known: Tensor, link: Link, keep: float) -> Tensor:
    """(3, h, w): what is known of a neighbor, as far as this frame takes it over."""
    return link.carried(known) * (link.reliability * keep)


def _results(waiting: deque[_Waiting], count: int, keep: float, sight: float) -> Iterator[Tensor]:
    """(h, w, 2) of the first frames that wait, which then wait no more.

    What is given in a later frame comes apart from what was found there, and counts the less the farther away it is:
    else the first frame that knows of it would differ from the one before, which did not.

    :param sight: frames before a given one that all know of it.
    """
    after = given = None
    away = 0
    means: list[Tensor] = []
    for place in range(len(waiting) - 1, -1, -1):
        each, own, pinned = waiting[place], waiting[place].own, waiting[place].frame.pinned
        total, away = each.before + own, away + 1
        if each.on is not None:
            after = None if after is None else _carried(after, each.on, keep)
            given = None if given is None else _carried(given, each.on, keep)
        total = total if after is None else total + after
        if place < count:
            mean = total if given is None else total + given
            chroma = _mean(mean, each.frame)
            if given is not None and (near := _near(away, sight)) < 1:
                chroma = torch.lerp(_mean(total, each.frame), chroma, near)
            means.append(chroma)
        if pinned is not None:
            part = own * pinned
            own, given, away = own - part, part if given is None else part + given * (1 - pinned), 0
        after = own if after is None else own + after
    for _ in range(count):
        waiting.popleft()
    yield from reversed(means)


def _near(away: int, sight: float) -> float:
    """How much counts what is given so many frames later: all of it up to half of sight, then smoothly less."""
    return 0.5 + 0.5 * math.cos(math.pi * min(1.0, max(0.0, 2 * away / max(sight, 1) - 1)))


def _mean(total: Tensor, frame: Colored) -> Tensor:
    chroma = (total[1:] / total[0]).movedim(0, -1)
    if frame.pinned is None:
        return chroma
    return torch.lerp(chroma, frame.chroma, frame.pinned.clamp(0, 1)[..., None])  # exact where it is 0 or 1
