"""Frames in order from any number on: sought by the time of a frame that was seen before, and checked."""

from __future__ import annotations

import logging
from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from .containers import Source, video_stream
from .pixels import planar

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

log = logging.getLogger(__name__)

#: Frames before the one sought at which a second try begins.
_EARLIER = 300


class _NotThere(Exception):
    """What was sought did not come out of the decoder."""


@dataclass
class Times:
    """When each frame that was seen is shown, by its number; it grows as the film is read.

    Eight bytes a frame; it lives as long as the film's object.
    """

    #: In the stream's time base, before a film's origin is taken off.
    pts: array[int] = field(default_factory=lambda: array("q"))
    #: Whether the file's own times were all there and rising, so that one can be sought.
    exact: bool = True


class Decoder:
    """A film's frames, each with its number; every call reads the file anew.

    :param first: frames before this time (in the stream's time base) belong to no film.
    :param end: nor do those from here on; none where it goes to the end.
    """

    def __init__(self, source: Source, *, first: int | None, end: int | None, deinterlace: bool) -> None:
        self._source, self.first, self.end, self._deinterlace = source, first, end, deinterlace
        self.times = Times()
        self.notes: list[str] = []
        self.count: int | None = None  # known once the end was seen

    def frames(self, start: int = 0) -> Iterator[tuple[int, int, VideoFrame]]:
        """Number, time and frame, in order from a number on.

        :raises ValueError: a frame of another size.
        """
        known = len(self.times.pts)
        at = min(start, known - 1)
        tries: list[int] = [at, at - _EARLIER] if self.times.exact else []
        for place in tries:
            if place <= 0:
                continue
            # a filter looks at neighbors, so it begins two frames earlier
            sought = max(0, place - 2) if self._deinterlace else place
            try:
                yield from self._from(sought, start)
                return
            except _NotThere:
                continue
        yield from self._from(None, start)

    def _from(self, sought: int | None, start: int) -> Iterator[tuple[int, int, VideoFrame]]:
        given = False
        for number, pts, frame in self._numbered(sought):
            if number >= start:
                given = True
                yield number, pts, frame
        if sought is not None and not given and (self.count is None or start < self.count):
            raise _NotThere

    def _numbered(self, sought: int | None) -> Iterator[tuple[int, int, VideoFrame]]:
        with self._source.opened() as container:
            stream = video_stream(container, self._source.name)
            stream.thread_type = "AUTO"
            frames = self._decoded(stream, None if sought is None else self.times.pts[sought])
            if sought is None:
                yield from self._counted(frames)
            else:
                yield from self._recognized(frames, sought)

    def _counted(self, frames: Iterator[VideoFrame]) -> Iterator[tuple[int, int, VideoFrame]]:
        """Frames from the file's beginning, whose times are kept."""
        times, number, last, step = self.times, 0, None, 1
        for frame in frames:
            pts = frame.pts
            if pts is None or (last is not None and pts <= last):
                times.exact = False
                pts = 0 if last is None else last + step
            elif last is not None:
                step = pts - last
            if self._is_over(pts):
                break
            last = pts
            if self.first is not None and pts < self.first:
                continue
            if number == len(times.pts):
                times.pts.append(pts)
            yield number, pts, frame
            number += 1
        self.count = number

    def _recognized(self, frames: Iterator[VideoFrame], sought: int) -> Iterator[tuple[int, int, VideoFrame]]:
        """Frames from a key frame on, each known by its time.

        :raises _NotThere: before the one sought is given, a frame is missing, or the key frame lies behind it.
        """
        times, aim = self.times.pts, self.times.pts[sought]
        number = -1
        has_key = False
        for frame in frames:
            pts = frame.pts
            has_key = has_key or bool(frame.key_frame)
            if number < 0:
                if pts is None or pts > aim or frame.is_corrupt:
                    raise _NotThere
                if pts < aim or not has_key:
                    continue
                number = sought
            elif number < len(times) and pts != times[number]:
                log.debug("frame %d came at another time than before", number)
            if pts is None or self._is_over(pts):
                break
            if number == len(times):
                times.append(pts)
            yield number, pts, frame
            number += 1
        if number < 0:
            raise _NotThere
        self.count = number

    def _is_over(self, pts: int) -> bool:
        return self.end is not None and pts >= self.end

    def _decoded(self, stream: VideoStream, seek: int | None) -> Iterator[VideoFrame]:
        frames = self._packets(stream, seek)
        return deinterlaced(frames, stream) if self._deinterlace else frames

    def _packets(self, stream: VideoStream, seek: int | None) -> Iterator[VideoFrame]:
        """What comes out of the decoder; broken packets are passed over and told."""
        from av.error import FFmpegError

        container: Any = stream.container
        if seek is not None:
            try:
                container.seek(seek, stream=stream)
            except FFmpegError as error:
                raise _NotThere from error
        size = (stream.width, stream.height)
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except FFmpegError as error:
                self.note(f"The file breaks off: {error.strerror}. What came before is used.")
                packet = None
            try:
                found = stream.decode(packet) if packet is not None else stream.decode(None)
            except EOFError:  # FFmpeg's is a kind of it
                return
            except FFmpegError as error:
                self.note(f"A part of the film could not be decoded ({error.strerror}); frames are missing there.")
                found = []
            for frame in found:
                if frame.width and size != (frame.width, frame.height):
                    raise ValueError(
                        f"The film changes its size, from {size[0]} x {size[1]} to {frame.width} x {frame.height}; "
                        "cut it into films of one size first."
                    )
                yield frame
            if packet is None or (packet.size == 0 and packet.dts is None):
                return

    def note(self, text: str) -> None:
        """Tell something once."""
        if text not in self.notes:
            self.notes.append(text)
            log.warning("%s", text)


def deinterlaced(frames: Iterator[VideoFrame], stream: VideoStream) -> Iterator[VideoFrame]:
    """Whole frames of interlaced ones, one of each, by FFmpeg's bwdif; times stay."""
    from av.filter import Graph

    graph: Any = None
    waiting = deque[tuple[int | None, Any, int]]()
    for frame in frames:
        frame = planar(frame)
        if graph is None:
            graph = Graph()
            nodes = [
                graph.add_buffer(
                    width=frame.width, height=frame.height, format=frame.format.name, time_base=stream.time_base
                ),
                graph.add("bwdif", "mode=send_frame:parity=auto:deint=all"),
                graph.add("buffersink"),
            ]
            for one, next_one in pairwise(nodes):
                one.link_to(next_one)
            graph.configure()
        waiting.append((frame.pts, frame.time_base, frame.duration))
        graph.push(frame)
        yield from _pulled(graph, waiting)
    if graph is not None:
        graph.push(None)
        yield from _pulled(graph, waiting)


def _pulled(graph: Any, waiting: deque[tuple[int | None, Any, int]]) -> Iterator[VideoFrame]:
    """What a filter that counts in half frames has ready, with the times that went in."""
    while True:
        try:
            frame = graph.pull()
        except (BlockingIOError, EOFError):  # FFmpeg's are kinds of these
            return
        frame.pts, frame.time_base, frame.duration = waiting.popleft()
        yield frame
