"""A film in color, shot by shot (see :mod:`.film_shot`), by a color memory of references and key frames.

    film --small, once--> shots, and which are in color already
    references, key frames of the shot --features--> memory
    frame --features--> queries --lookup--> chroma, confidence --along the motion--> steady chroma
    steady chroma + the frame's own lightness --> written as it goes, a shot at a time

Nothing is carried over a cut: a film that was interrupted goes on at the first shot that is not whole, and its bytes
are those of one that was not. Memory does not grow with the film; of each frame one number is kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor

from ..color.batches import freed
from ..memory.entries import ColorMemory, Made, merged
from ..memory.features import FeatureSource
from .film_host import FilmSink, FilmSource
from .film_memory import KeyFrame, ShotMemory, check_keys, key_entries, shot_memory
from .film_scores import CANDIDATES, ShotReport, ShotScores, packed, thumbnail
from .film_settings import FilmSettings, ShotSettings
from .film_shot import Asking, FewerAtOnce, color_shot, spread_over, surest
from .shots import LOOKED_AT, Shot, find_shots

if TYPE_CHECKING:
    from typing_extensions import Unpack  # typing has it from Python 3.11 on

log = logging.getLogger(__name__)

#: A gray picture, (1, H, W, 3), to the same in color.
Thorough = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class FilmReport:
    """What became of a film.

    :param shots: in order.
    :param result: what the sink's ``finish`` gave.
    """

    shots: tuple[ShotReport, ...]
    result: Any = None

    @property
    def frames(self) -> int:
        """Of the whole film."""
        return self.shots[-1].stop if self.shots else 0

    @property
    def suggestion(self) -> int | None:
        """The next key frame: the one suggested for the shot with most unmatched frames."""
        known = [shot for shot in self.shots if shot.suggestion is not None]
        return max(known, key=lambda shot: sum(1 - each for each in shot.match)).suggestion if known else None

    def listed(self) -> dict[str, Any]:
        """All of it, as JSON can hold it."""
        return {
            "shots": [
                {
                    "start": shot.start,
                    "stop": shot.stop,
                    "colored": shot.colored,
                    "score": None if shot.score is None else round(shot.score, 4),
                    "key_frames": list(shot.key_frames),
                    "suggestion": shot.suggestion,
                    "match": list(shot.match),
                }
                for shot in self.shots
            ],
            "suggestion": self.suggestion,
        }

    def strip(self) -> Tensor:
        """(1, h, w, 3): the shots with thumbnails, match scores, key frames and suggestions."""
        from .film_strip import film_strip

        return film_strip(self.shots)


@dataclass(frozen=True)
class FilmColors:
    """What a film is colored by.

    :param memory: of references; None where there are key frames alone.
    :param key_frames: frames with their colors. A shot without one of its own takes all of them as references.
    :param thorough: colors a shot's surest frame, which then is a key frame; None where there is no such method.
    """

    memory: ColorMemory | None = None
    key_frames: Sequence[KeyFrame] = ()
    thorough: Thorough | None = None


class Told(TypedDict, total=False):
    """What is called as the work goes on."""

    #: With the number of each frame that was looked at for cuts.
    on_look: Callable[[int], None]
    #: With a shot's number, how many there are, and in a few words what is done before its first frame; "" is the
    #: frames themselves.
    on_step: Callable[[int, int, str], None]
    #: With how many frames are done, of how many, and the last one's picture, (1, H, W, 3).
    on_frame: Callable[[int, int, Tensor], None]


def _nothing(*_: Any) -> None:
    """For who is not told."""


def color_film(
    film: FilmSource,
    network: FeatureSource,
    settings: FilmSettings,
    colors: FilmColors,
    sink: FilmSink,
    *,
    shots: Sequence[Shot] | None = None,
    device: torch.device | None = None,
    out_of_memory: Callable[[Exception], bool] = freed,
    **told: Unpack[Told],
) -> FilmReport:
    """Color a film.

    :param shots: of the film; None looks for them.
    :param device: where memories are asked; None is where features are.
    :param told: see :class:`Told`. What one of them raises ends the work within a frame; whole shots stay.
    :raises ValueError: key frames, memory or settings that do not fit, before long work.
    """
    keys = check_film(film, network, settings, colors)
    sink.check()
    if shots is None:
        shots = shots_of(film, settings.shots, told.get("on_look", _nothing))
    total = shots[-1].stop
    check_keys(keys, film.facts, total)
    whole = sink.begin([(shot.start, shot.stop) for shot in shots])
    asking = Asking(film, network, settings, out_of_memory, device)
    steps, each = told.get("on_step", _nothing), told.get("on_frame", _nothing)
    worker = _Worker(asking, sink, colors, keys, total, len(shots), steps, each)
    reports = []
    for number, shot in enumerate(shots):
        scores = whole[number] if number in whole else worker.colored(number, shot)
        reports.append(ShotReport.read(shot.start, shot.stop, shot.colored, scores))
    return FilmReport(tuple(reports), sink.finish())


def check_film(
    film: FilmSource, network: FeatureSource, settings: FilmSettings, colors: FilmColors
) -> tuple[KeyFrame, ...]:
    """Whether everything fits, before the film is read. Parameters as for :func:`color_film`.

    :returns: the key frames, checked, in order.
    :raises ValueError: it does not.
    """
    memory = colors.memory
    if memory is not None and memory.made is not None:
        memory.made.check(Made(network.fingerprint, network.spaces, settings.asking.features.context, network.name))
    if (memory is None or not len(memory)) and not colors.key_frames:
        raise ValueError(
            "film: found no colors to take, expected a reference, a color memory or a key frame; give one of them."
        )
    _ = settings.shots.listed
    return check_keys(colors.key_frames, film.facts, film.facts.frames)


def shots_of(film: FilmSource, settings: ShotSettings, on_look: Callable[[int], None] = _nothing) -> list[Shot]:
    """The shots of a film.

    :param on_look: called with the number of each frame that was looked at; what it raises ends the work.
    :raises ValueError: no frame at all, or a listed cut beyond the end.
    """
    return find_shots(_looked(film.small(LOOKED_AT), on_look), settings)


def report_of_shots(
    film: FilmSource, shots: Sequence[Shot], on_shot: Callable[[], None] = _nothing, *, thumbnails: bool = True
) -> FilmReport:
    """Shots that were found and not colored, each with the frame in its middle.

    :param on_shot: called before that of each is read; what it raises ends the work.
    """
    reports = []
    for shot in shots:
        shown = None
        if thumbnails:
            on_shot()
            middle = (shot.start + shot.stop) // 2
            shown = next((thumbnail(frame.picture) for frame in film.frames(middle, middle + 1)), None)
        reports.append(ShotReport(shot.start, shot.stop, shot.colored, thumbnail=shown))
    return FilmReport(tuple(reports))


def _looked(frames: Iterable[Any], on_look: Callable[[int], None]) -> Iterator[Any]:
    for frame in frames:
        on_look(frame.index)
        yield frame


@dataclass
class _Worker:
    """Colors shots. Lifetime: one film."""

    asking: Asking
    sink: FilmSink
    colors: FilmColors
    keys: tuple[KeyFrame, ...]
    total: int
    shots: int
    on_step: Callable[[int, int, str], None]
    on_frame: Callable[[int, int, Tensor], None]
    _foreign: ColorMemory | None = None

    def colored(self, number: int, shot: Shot) -> dict[str, Any]:
        """One shot, written; with fewer frames in a model call where memory runs out. Returns its scores."""
        while True:
            try:
                with self.sink.shot(number) as writer:
                    scores = self._written(number, shot, writer)
                    writer.scores.update(scores)
                return scores
            except FewerAtOnce:
                log.warning("Out of memory; going on with %d frame(s) at once.", self.asking.batch)

    def _written(self, number: int, shot: Shot, writer: Any) -> dict[str, Any]:
        asking, settings = self.asking, self.asking.settings
        keys = tuple(key for key in self.keys if shot.start <= key.number < shot.stop)
        if shot.colored and settings.in_color == "keep":
            return self._left_alone(shot, writer)
        memory = self._memory(shot, keys, lambda what: self.on_step(number, self.shots, what))
        self.on_step(number, self.shots, "")
        scores = ShotScores(
            spread_over(shot, CANDIDATES),
            settings.asking.features.context,
            (shot.start + shot.stop) // 2,
            memory.keys,
        )
        for frame, picture in color_shot(asking, shot, memory, keys, scores):
            writer.write(frame, picture)
            self.on_frame(frame.index + 1, self.total, picture[None])
        return scores.written()

    def _left_alone(self, shot: Shot, writer: Any) -> dict[str, Any]:
        shown = None
        for frame in self.asking.film.frames(shot.start, shot.stop):
            writer.write(frame, frame.picture)
            if frame.index == (shot.start + shot.stop) // 2:
                shown = packed(thumbnail(frame.picture))
            self.on_frame(frame.index + 1, self.total, frame.picture[None])
        return {"match": [], "key_frames": [], "suggestion": None, "thumbnail": shown}

    def _memory(self, shot: Shot, keys: Sequence[KeyFrame], on_step: Callable[[str], None]) -> ShotMemory:
        """What the shot is colored by; where nothing else is known of it, its surest frame is colored first."""
        asking = self.asking
        on_step("memory")
        references = self.colors.memory if keys else self._references()
        memory = shot_memory(references, keys, asking.film, asking.network, asking.settings)
        assert memory is not None  # without references there are key frames, and all serve who has none
        thorough = self.colors.thorough if asking.settings.key_method == "thorough" else None
        if keys or thorough is None or self.colors.memory is None:
            return memory
        number, gray = surest(asking, shot, memory, lambda: on_step("surest frame"))
        on_step(f"key frame {number}")
        made = KeyFrame(number, thorough(gray).cpu().float())
        both = shot_memory(references, (made,), asking.film, asking.network, asking.settings)
        assert both is not None
        return both

    def _references(self) -> ColorMemory | None:
        """For shots without a key frame: those of all others serve them, too."""
        if not self.keys:
            return self.colors.memory
        if self._foreign is None:
            asking = self.asking
            made = [key_entries(key, asking.film, asking.network, asking.settings, 1.0) for key in self.keys]
            self._foreign = merged([*([] if self.colors.memory is None else [self.colors.memory]), *made])
        return self._foreign
