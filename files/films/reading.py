"""A film's frames, one after the other, each at its own number and time."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ...color.yuv import Siting
from ..room import check_room
from .containers import Source, video_stream
from .decoding import Decoder
from .facts import Colors, FilmFacts, FilmFrame, colors_of
from .pixels import bits_of, picture_of, shrunk, siting_of

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

log = logging.getLogger(__name__)

#: Frames that are asked whether they are interlaced.
_ASKED = 12


def open_film(
    source: str | Path | BinaryIO, *, deinterlace: bool = False, start: float = 0.0, duration: float = 0.0
) -> Film:
    """A film, looked at but not read yet.

    :param source: a file, or a seekable object that holds one; it must stay open.
    :param deinterlace: make whole frames of an interlaced film's fields, by FFmpeg's bwdif; one that is not stays.
    :param start: seconds before which frames are left out; below 0 from the end.
    :param duration: seconds that are read from there; 0 is all.
    :raises FileNotFoundError: there is no such file.
    :raises ValueError: no film in it, an interlaced one without ``deinterlace``, colors that are not read, no PyAV.
    """
    place = Source(source)
    with place.opened() as container:
        stream = video_stream(container, place.name)
        if not stream.time_base:
            raise ValueError(f"{place.name} has no times of its frames; convert it to MKV or MP4 first.")
        window = _window(container, stream, start, duration)
        facts, colors, siting = _look(place, container, stream, deinterlace)
        length = _length(container, stream)
    first, end, origin = window
    decoder = Decoder(place, first=first, end=end, deinterlace=deinterlace and facts.interlaced)
    if first is not None or end is not None:
        facts, length = _cut(facts, start), None
    for sentence in facts.assumed:
        log.info("%s: %s", place.name, sentence)
    return Film(place, facts, decoder, (colors, siting), origin, length)


class Film:
    """A film that can be read any number of times, also by several readers at once.

    It holds no pictures: only when each frame that was seen is shown (8 bytes a frame).
    """

    def __init__(
        self,
        source: Source,
        facts: FilmFacts,
        decoder: Decoder,
        colors: tuple[Colors, Siting],
        origin: int,
        length: float | None,
    ) -> None:
        self.facts, self.name = facts, source.name
        #: Of the file's times, the one that is the film's 0, in the time base.
        self.origin = origin
        self._source, self._decoder, self._length = source, decoder, length
        self._colors = colors[0]
        self._siting: Siting = colors[1]

    @property
    def notes(self) -> list[str]:
        """What went wrong in reading: where the file breaks off, what could not be decoded."""
        return self._decoder.notes

    @property
    def window(self) -> tuple[int, int | None]:
        """The part that is read, in the file's own times and the time base."""
        return self._decoder.first or 0, self._decoder.end

    @property
    def is_cut(self) -> bool:
        """Whether only a part is read."""
        return self._decoder.first is not None or self._decoder.end is not None

    def opened(self) -> AbstractContextManager[InputContainer]:
        """FFmpeg's view of the file, for its other streams."""
        return self._source.opened()

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[FilmFrame]:
        """The frames from one number up to another, without that.

        Numbers that were seen before are sought and cost little. Where the film ends early, so does this; then
        :attr:`notes` says where.

        :raises ValueError: the film changes its size.
        """
        return self._read(start, stop, 0)

    def small(self, longest: int) -> Iterator[FilmFrame]:
        """All frames with the longest side at most that long."""
        return self._read(0, None, longest)

    def _read(self, start: int, stop: int | None, longest: int) -> Iterator[FilmFrame]:
        before: tuple[int, int, VideoFrame] | None = None
        step = self._step()
        for number, pts, frame in self._decoder.frames(start):
            if before is not None:
                step = pts - before[1]
                yield self._made(before, step, longest)
            if stop is not None and number >= stop:
                return
            before = number, pts, frame
        if before is not None:
            yield self._made(before, before[2].duration or step, longest)
        self._tell_end(float((before[1] + 2 * step - self.origin) * self.facts.time_base) if before else 0.0)

    def _made(self, found: tuple[int, int, VideoFrame], duration: int, longest: int) -> FilmFrame:
        number, pts, frame = found
        if longest:
            frame = shrunk(frame, longest)
        picture = picture_of(frame, self._colors, self._siting, turns=self.facts.rotation // 90)
        return FilmFrame(number, pts - self.origin, max(1, int(duration)), picture)

    def _step(self) -> int:
        """How long a frame is shown where nothing says it."""
        rate = self.facts.rate
        return max(1, round(1 / (rate * self.facts.time_base))) if rate else 1

    def _tell_end(self, end: float) -> None:
        count, expected = self._decoder.count, self.facts.frames
        said = ""
        if count is None:
            return
        if expected is not None and count < expected:
            said = f"{count} of {expected} frames could be read"
        elif expected is None and self._length is not None and 0 < end < self._length:
            said = f"{count} frames could be read, and its header says that it lasts {self._length:.2f} seconds"
        if said:
            self._decoder.note(
                f"{self.name} ends early: {said}. These are used; the file was cut off, or its header is wrong."
            )


def _length(container: InputContainer, stream: VideoStream) -> float | None:
    """Seconds that the film lasts by the file's header; none where that may be the sound's."""
    for name, value in stream.metadata.items():
        if name.upper() == "DURATION" and value.count(":") == 2:
            hours, minutes, seconds = map(float, value.split(":"))
            return hours * 3600 + minutes * 60 + seconds
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / 1e6 if container.duration and len(container.streams) == 1 else None


def _window(
    container: InputContainer, stream: VideoStream, start: float, duration: float
) -> tuple[int | None, int | None, int]:
    """First time, end and origin of what is read, in the stream's time base."""
    base = stream.time_base
    assert base is not None
    if start < 0:
        start = max(0.0, (container.duration or 0) / 1e6 + start)
    first = int(start / base) if start else None
    end = int((start + duration) / base) if duration else None
    if first is not None:
        return first, end, first
    begins = Fraction(max(0, container.start_time or 0), 1_000_000)
    return None, end, int(begins / base) if stream.start_time is None else min(int(begins / base), stream.start_time)


def _cut(facts: FilmFacts, start: float) -> FilmFacts:
    """The facts of a part: how many frames it has is not known from the header."""
    return replace(facts, frames=None, timecode=facts.timecode if not start else None)


def _look(
    place: Source, container: InputContainer, stream: VideoStream, deinterlace: bool
) -> tuple[FilmFacts, Colors, Siting]:
    """Facts, colors and siting, from the header and the first frames."""
    from av.error import FFmpegError

    check_room(stream.width, stream.height)
    stream.thread_type = "AUTO"
    found: list[VideoFrame] = []
    try:
        found = list(islice(container.decode(stream), _ASKED))
    except FFmpegError as error:
        raise ValueError(
            f"{place.name} holds a film whose first frames cannot be decoded ({error.strerror})."
        ) from error
    if not found:
        raise ValueError(f"{place.name} holds a film without a frame that can be decoded; it is broken or empty.")
    first, codec = found[0], stream.codec_context
    interlaced = any(frame.interlaced_frame for frame in found) or int(getattr(codec, "field_order", 0)) > 1
    if interlaced and not deinterlace:
        raise ValueError(
            f"{place.name} is interlaced: two half frames lie in every frame. Deinterlace it first, or have it done "
            "here with the option deinterlace."
        )
    colors = colors_of(first, codec)
    turns = round(int(first.rotation) / 90) % 4
    width, height = (first.width, first.height) if turns % 2 == 0 else (first.height, first.width)
    aspect = stream.sample_aspect_ratio or codec.sample_aspect_ratio or Fraction(1)
    aspect = Fraction(aspect) if aspect > 0 else Fraction(1)
    assert stream.time_base is not None
    facts = FilmFacts(
        width=width,
        height=height,
        frames=stream.frames or None,
        rate=stream.average_rate or stream.guessed_rate,
        time_base=stream.time_base,
        bits=bits_of(first.format),
        matrix=colors.matrix,
        full_range=colors.full,
        primaries=colors.primaries,
        transfer=colors.transfer,
        assumed=colors.assumed,
        interlaced=interlaced,
        aspect=aspect if turns % 2 == 0 else 1 / aspect,
        rotation=turns * 90,
        audio=len(container.streams.audio),
        timecode=_timecode(container, stream),
        container=container.format.name,
        codec=codec.name,
    )
    return facts, colors, siting_of(codec.name)


def _timecode(container: InputContainer, stream: VideoStream) -> str | None:
    """As the container, the film's stream or a stream of its own says."""
    for each in (container, stream, *container.streams):
        for name, value in each.metadata.items():
            if name.lower() == "timecode":
                return value
    return None
