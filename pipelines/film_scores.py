"""How well a film's frames are matched, and which frame would help most as the next key frame.

Kept of a frame are a few numbers. Of each shot a few candidates are kept as they look to the network: one helps where
places of the others look like its own, are in doubt, and are covered by no key frame yet.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..color.registration import frame_of
from ..memory.features import Features, joined_keys
from .memory_answer import Answer

#: Expected error (CIE Lab) at which a frame is half matched.
HALF = 12.0
#: The errors to be expected: so much for each unit of spread of what was matched, and so much of the found color where
#: it comes from something unlike; and how far below that of the place itself the logit of its best match is where it is
#: so to 63 %. On 36 shots of development clips of ``training.clips`` (240 frames, key frames, then references alone)
#: 11.8 and 17.3 are expected where 9.7 and 18.0 are true.
SPREAD, OFF, UNLIKE = 0.9, 0.9, 8.0
#: How far below a place's logit with itself the best match is where it covers the place to 37 %.
COVERED = 8.0
#: Frames of a shot that are candidates for the next key frame.
CANDIDATES = 16
#: Most places of a frame along its longer side, of which every third, in both directions, is looked for; and most
#: places of a candidate, among which they are.
PLACES, STEP, KEPT = 32, 3, 16
#: Longest side of a thumbnail.
THUMBNAIL = 48


@dataclass
class _Candidate:
    """A frame as it looks to the network, float16.

    :param keys: (n, C), of its places; of a key frame those whose colors are given.
    :param queries: (m, C), of some of them; ``own`` (m,) their logits with themselves, ``doubt`` (m,) the errors to be
        expected of them, CIE Lab.
    """

    number: int
    keys: Tensor
    queries: Tensor
    own: Tensor
    doubt: Tensor


@dataclass
class ShotScores:
    """What is known of one shot. Lifetime: until its scores are written.

    :param candidates: numbers of the frames that may be suggested.
    :param keys: numbers of the key frames.
    """

    candidates: Sequence[int]
    context: float = 0.0
    middle: int = 0
    keys: tuple[int, ...] = ()
    match: list[float] = field(default_factory=list)
    _looks: list[_Candidate] = field(default_factory=list)
    _thumbnail: Tensor | None = None

    def asked(
        self, number: int, features: Features, answer: Answer, mask: Tensor | None = None, given: bool = False
    ) -> None:
        """A frame was asked; called in order.

        :param mask: (1, H, W) of a key frame, where its colors are given; None for all of it.
        :param given: whether they are a person's, in which there is no doubt.
        """
        keys = joined_keys(features, self.context)[0].to(answer.queries)
        own = (answer.queries * keys).sum(-1).cpu()
        doubt = _doubt(answer, own)
        left = 1.0 if not given else 0.0 if mask is None else 1 - float(mask.float().mean())
        self.match.append(1 / (1 + (left * float(doubt.mean()) / HALF) ** 2))
        if number in self.candidates or number in self.keys:
            self._looks.append(_candidate(number, features.grid, answer.queries, keys, doubt, mask))

    def shown(self, number: int, picture: Tensor) -> None:
        """A frame is colored, (H, W, 3)."""
        if number == self.middle:
            self._thumbnail = thumbnail(picture)

    def suggestion(self) -> int | None:
        """The frame that would help most as a key frame; None where there is none that is not one already.

        What counts is how much of the doubt about places of all of them lies where it looks like them, and no key
        frame does.
        """
        given = [each for each in self._looks if each.number in self.keys]
        others = [each for each in self._looks if each.number not in self.keys]
        had = [
            torch.stack([torch.zeros_like(each.own), *(_cover(key, each) for key in given)]).amax(0) for each in others
        ]
        best: tuple[float, int] | None = None
        for one in others:
            pairs = zip(others, had, strict=True)
            gain = sum(float((each.doubt * (_cover(one, each) - known).clamp(min=0)).sum()) for each, known in pairs)
            if best is None or gain > best[0]:
                best = (gain, one.number)
        return None if best is None else best[1]

    def written(self) -> dict[str, Any]:
        """All of it, as JSON can hold it."""
        return {
            "match": [round(each, 4) for each in self.match],
            "key_frames": list(self.keys),
            "suggestion": self.suggestion(),
            "thumbnail": None if self._thumbnail is None else packed(self._thumbnail),
        }


def _doubt(answer: Answer, own: Tensor) -> Tensor:
    """(n,): the error to be expected of each place, CIE Lab.

    How much what it matched disagrees; and, the less its best match looks like itself, a share of the color.

    :param own: (n,), logits of the places with themselves.
    """
    found = answer.found
    unlike = 1 - ((found.match - own).clamp(max=0) / UNLIKE).exp()
    return SPREAD * found.spread + OFF * found.chroma.norm(dim=-1) * unlike


def _candidate(
    number: int, grid: tuple[int, int], queries: Tensor, keys: Tensor, doubt: Tensor, mask: Tensor | None
) -> _Candidate:
    """A frame, from what is known of its places, (h · w, ...) on a grid."""
    height, width = _at_most(PLACES, grid)
    queries, keys, doubt = (
        _pooled(each.float().cpu(), grid, (height, width)) for each in (queries, keys, doubt[:, None])
    )
    some = torch.arange(height * width).view(height, width)[::STEP, ::STEP].flatten()
    own = (queries[some] * keys[some]).sum(-1)
    kept = _at_most(KEPT, grid)
    keys = _pooled(keys, (height, width), kept)
    if mask is not None:
        keys = keys[F.adaptive_avg_pool2d(mask[:, None].float(), kept).flatten() > 0.5]
    return _Candidate(number, keys.half(), queries[some].half(), own, doubt[some, 0])


def _at_most(places: int, grid: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a grid with so many places along its longer side, if it has more."""
    height, width = (min(side, max(1, round(side * places / max(grid)))) for side in grid)
    return height, width


def _pooled(values: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """(h · w, C) on a grid -> means, (n, C), on a coarser one."""
    return values if size == grid else F.adaptive_avg_pool2d(values.T.unflatten(1, grid)[None], size)[0].flatten(1).T


def _cover(one: _Candidate, other: _Candidate) -> Tensor:
    """(m,) in 0..1, how far a frame has what some places of another one look like."""
    if one is other:
        return torch.ones_like(other.own)
    if not len(one.keys):
        return torch.zeros_like(other.own)
    return _covered((other.queries.float() @ one.keys.float().T).amax(-1) - other.own)


def _covered(below: Tensor) -> Tensor:
    """In 0..1, from how far the best match's logit is above (or below) that of the place itself."""
    return (below.clamp(max=0) / COVERED).exp()


def thumbnail(picture: Tensor) -> Tensor:
    """(H, W, 3) in 0..1 -> uint8, (h, w, 3)."""
    size = frame_of(picture.shape[0], picture.shape[1], THUMBNAIL)
    small = F.interpolate(picture.movedim(-1, 0)[None].float().cpu(), size, mode="area")[0].movedim(0, -1)
    return (small.clamp(0, 1) * 255).round().to(torch.uint8)


def packed(thumbnail: Tensor) -> str:
    """A thumbnail as a text."""
    height, width = thumbnail.shape[:2]
    return f"{width}x{height}:" + base64.b64encode(zlib.compress(thumbnail.numpy().tobytes())).decode()


def unpacked(text: str) -> Tensor:
    """The way back.

    :raises ValueError: it is none.
    """
    size, _, data = text.partition(":")
    width, height = (int(side) for side in size.split("x"))
    raw = zlib.decompress(base64.b64decode(data))
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(height, width, 3)


@dataclass(frozen=True)
class ShotReport:
    """What became of one shot.

    :param match: of each frame, 0..1; () where it was not colored.
    :param key_frames: numbers of its key frames, given and made.
    :param suggestion: the frame that would help most as the next one; None where there is none.
    :param thumbnail: uint8 (h, w, 3); None where there is none.
    """

    start: int
    stop: int
    colored: bool
    match: tuple[float, ...] = ()
    key_frames: tuple[int, ...] = ()
    suggestion: int | None = None
    thumbnail: Tensor | None = None

    @property
    def score(self) -> float | None:
        """Of the shot; None where it was not colored."""
        return sum(self.match) / len(self.match) if self.match else None

    @classmethod
    def read(cls, start: int, stop: int, colored: bool, written: Mapping[str, Any]) -> ShotReport:
        """From what :meth:`ShotScores.written` gave."""
        shown = written.get("thumbnail")
        return cls(
            start,
            stop,
            colored,
            tuple(float(each) for each in written.get("match", ())),
            tuple(int(each) for each in written.get("key_frames", ())),
            written.get("suggestion"),
            unpacked(shown) if isinstance(shown, str) else None,
        )
