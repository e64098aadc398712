"""Segments, the film's sound, subtitles, chapters and timecode put into one file; the same bytes at any time."""

from __future__ import annotations

import heapq
import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from .codecs import THREADS, WRITERS, Encoding
from .encoding import Packet, configure
from .facts import FilmFacts, FilmFrame
from .segments import read_packets, read_times

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet as AvPacket
    from av.stream import Stream

    from .reading import Film

log = logging.getLogger(__name__)

#: Steps of a second, at least, of times that are made even.
_FINE = 10_000
#: What is said of a file or stream that is not taken along: the writer's own marks, and what says when.
_LEFT = {
    "encoder",
    "creation_time",
    "major_brand",
    "minor_version",
    "compatible_brands",
    "timecode",
    "duration",
    "rotate",
}


def mux(
    file: BinaryIO, suffix: str, encoding: Encoding, facts: FilmFacts, segments: Sequence[Path], film: Film | None
) -> None:
    """Write the film.

    :param file: open for writing and seeking, empty.
    :param suffix: of the container.
    :param segments: one a shot, in order.
    :param film: whose other streams are taken along; none for pictures without.
    :raises ValueError: a container that needs equal times, and a film that has none.
    :raises OSError: it cannot be written.
    """
    remembering = _Remembering(file)
    try:
        _mux(remembering, suffix, encoding, facts, segments, film)
    except Exception:
        if remembering.error is not None:  # FFmpeg only says that it could not write
            raise remembering.error from None
        raise


class _Remembering:
    """A file for FFmpeg, which keeps the error that FFmpeg does not hand on."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None
        self.read, self.seek, self.tell, self.name = file.read, file.seek, file.tell, "film"

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise


def _mux(
    file: _Remembering,
    suffix: str,
    encoding: Encoding,
    facts: FilmFacts,
    segments: Sequence[Path],
    film: Film | None,
) -> None:
    import av

    clock = _clock(suffix, facts, segments)
    base = facts.time_base if clock is None else clock.base
    options = {"fflags": "+bitexact"}
    if suffix in (".mov", ".mp4"):
        options["video_track_timescale"] = str(base.denominator)
    with ExitStack() as stack:
        container = stack.enter_context(av.open(file, "w", format=WRITERS[suffix], options=options))
        stream = container.add_stream(encoding.encoder, rate=facts.rate or 25)
        context = stream.codec_context
        configure(context, encoding, base, facts.rate, facts.aspect)
        context.options = {**dict(encoding.options), "threads": str(THREADS), "flags": "+bitexact"}
        if encoding.tag and suffix in (".mov", ".mp4"):
            context.codec_tag = encoding.tag
        stream.time_base = base
        if facts.timecode:
            container.metadata["timecode"] = facts.timecode
        others: Iterator[tuple[Fraction, AvPacket]] = iter(())
        if film is not None:
            source = stack.enter_context(film.opened())
            others = _others(source, container, film)
            _take_chapters(source, container, film)
        container.start_encoding()
        own = _own(segments, clock, base, stream)
        for _, packet in heapq.merge(own, others, key=lambda each: each[0]):
            container.mux_one(packet)


class _Clock(NamedTuple):
    """Times of a file that has its own: the time base, a frame's duration, and new times by the film's."""

    base: Fraction
    step: int
    places: dict[int, int]

    def of(self, packet: Packet) -> Packet:
        return packet._replace(pts=self.places[packet.pts], duration=self.step)


def _clock(suffix: str, facts: FilmFacts, segments: Sequence[Path]) -> _Clock | None:
    """How frames are timed where the film's own times are not taken.

    MXF numbers frames. And times of an even rate that the film's file could only round (Matroska to milliseconds) are
    made even again for MOV and MP4, which editing programs would take for a film of a variable rate.
    """
    rate = facts.rate or Fraction(25)
    if suffix == ".mkv" or (suffix != ".mxf" and (1 / rate / facts.time_base).denominator == 1):
        return None
    times = sorted(time for path in segments for time in read_times(path))
    if suffix == ".mxf":
        return _Clock(1 / rate, 1, {time: number for number, time in enumerate(times)})
    even = 1 / rate / facts.time_base
    if any(abs(time - times[0] - number * even) > 1 for number, time in enumerate(times)):
        return None
    finer = -(-_FINE // rate.numerator)
    base, step = Fraction(1, rate.numerator * finer), rate.denominator * finer
    first = round(times[0] * facts.time_base / base)
    return _Clock(base, step, {time: first + number * step for number, time in enumerate(times)})


def check_even(frame: FilmFrame, facts: FilmFacts) -> None:
    """Refuse times that MXF, which only numbers frames, cannot hold.

    :raises ValueError: the frame does not last as long as all do at the film's rate.
    """
    rate = facts.rate or Fraction(25)
    place = frame.pts * facts.time_base * rate
    # a container may round times to milliseconds
    if abs(place - frame.index) > Fraction(1, 2) + Fraction(frame.index, 5000):
        raise ValueError(
            f"Frame {frame.index} is not where a constant rate of {float(rate):.3f} frames a second has it, and MXF "
            "knows no other; choose .mov or .mkv, which keep the film's own times."
        )


def _own(
    segments: Sequence[Path], clock: _Clock | None, base: Fraction, stream: Stream
) -> Iterator[tuple[Fraction, AvPacket]]:
    """The film's packets. Decoding times are made anew for the whole: each encoder began with its own.

    With frames in the order of decoding, packet i is decoded at the time at which frame i - d is shown, d being how
    many frames the encoder puts before one that is shown earlier.
    """
    import av

    decoded = [clock.places[time] if clock else time for path in segments for time in read_times(path)]
    shown = sorted(decoded)
    rank = {time: number for number, time in enumerate(shown)}
    delay = max((number - rank[time] for number, time in enumerate(decoded)), default=0)
    step = shown[1] - shown[0] if len(shown) > 1 else 1
    number = 0
    for path in segments:
        for found in read_packets(path):
            timed = clock.of(found) if clock else found
            packet = av.Packet(timed.data)
            early = number - delay
            packet.pts, packet.duration = timed.pts, timed.duration
            packet.dts = shown[early] if early >= 0 else shown[0] + early * step
            packet.time_base = base
            packet.is_keyframe = timed.key
            packet.stream = stream
            yield packet.dts * base, packet
            number += 1


def _others(source: InputContainer, container: OutputContainer, film: Film) -> Iterator[tuple[Fraction, AvPacket]]:
    """Packets of sound and subtitles, as they are, at the film's own times."""
    taken = {}
    for stream in kept_streams(source, container.supported_codecs):
        made = container.add_stream_from_template(stream)
        for name, value in stream.metadata.items():
            if name.lower() not in _LEFT:
                made.metadata[name] = value
        taken[stream.index] = made
    for name, value in source.metadata.items():
        if name.lower() not in _LEFT:
            container.metadata[name] = value
    return _copied(source, taken, film) if taken else iter(())


def _copied(source: InputContainer, taken: dict[int, Stream], film: Film) -> Iterator[tuple[Fraction, AvPacket]]:
    base = film.facts.time_base
    origin = film.origin * base
    begin, end = film.window
    streams = [stream for stream in source.streams if stream.index in taken]
    for packet in source.demux(*streams):
        if packet.dts is None or packet.time_base is None:
            continue
        at = (packet.pts if packet.pts is not None else packet.dts) * packet.time_base
        if (film.is_cut and at < begin * base) or (end is not None and at >= end * base):
            continue
        shift = round(origin / packet.time_base)
        packet.dts -= shift
        if packet.pts is not None:
            packet.pts -= shift
        packet.stream = taken[packet.stream_index]
        yield packet.dts * packet.time_base, packet


def _take_chapters(source: InputContainer, container: OutputContainer, film: Film) -> None:
    """Chapters, at the film's own times; not those of a part, nor into MXF, which has none."""
    if film.is_cut or container.format.name == "mxf" or not hasattr(container, "set_chapters"):
        return
    origin = film.origin * film.facts.time_base
    taken = []
    for number, each in enumerate(source.chapters(), 1):
        base = each["time_base"]
        if base is None:
            continue
        shift = round(origin / base)
        taken.append({**each, "id": number, "start": each["start"] - shift, "end": each["end"] - shift})
    if taken:
        container.set_chapters(taken)


def kept_streams(source: InputContainer, known: set[str]) -> list[Stream]:
    """Streams of sound and subtitles that a container takes."""
    found: list[Any] = [*source.streams.audio, *source.streams.subtitles]
    return [each for each in found if each.codec_context is not None and each.codec_context.name in known]


def _begins(suffix: str, stream: Stream) -> bool:
    """Whether a container's writer begins a file with a stream; of some that it lists it does not."""
    import av
    from av.error import FFmpegError

    if suffix == ".mxf" or stream.type != "audio":  # MXF begins no file without a picture
        return True
    try:
        with av.open(io.BytesIO(), "w", format=WRITERS[suffix]) as container:
            container.add_stream_from_template(stream)
            container.start_encoding()
    except (FFmpegError, ValueError):
        return False
    return True


def check_sound(suffix: str, film: Film) -> list[str]:
    """Whether a container takes the film's streams as they are.

    :returns: sentences on subtitles that it does not take.
    :raises ValueError: it does not take the sound.
    """
    import av

    notes = []
    with av.open(io.BytesIO(), "w", format=WRITERS[suffix]) as container:
        known = container.supported_codecs
    with film.opened() as source:
        for stream in [*source.streams.audio, *source.streams.subtitles]:
            codec = stream.codec_context.name if stream.codec_context is not None else "unknown"
            if codec in known and _begins(suffix, stream):
                continue
            if stream.type == "audio":
                others = " or ".join(each for each in (".mkv", ".mov") if each != suffix)
                raise ValueError(
                    f"{suffix} does not take the film's sound ({codec}) as it is; choose {others}, or leave "
                    "the sound out (--no-sound on the command line)."
                )
            notes.append(f"The subtitles ({codec}) are left out: {suffix} does not take them.")
    return notes
