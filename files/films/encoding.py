"""Pictures given to an encoder, and its packets."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from .codecs import THREADS, Encoding
from .facts import MATRICES, PRIMARIES, TRANSFERS
from .pixels import frame_of

if TYPE_CHECKING:
    from av.packet import Packet as AvPacket
    from av.video.codeccontext import VideoCodecContext

#: What an encoder may take from its frames in place of its settings: ProRes does.
_NAMED_BY_FRAMES = ("colorspace", "color_range", "color_primaries", "color_trc")


class Packet(NamedTuple):
    """What an encoder made of a frame, in the order in which it is decoded."""

    pts: int
    duration: int
    key: bool
    data: bytes


class Encoder:
    """An encoder for one shot; what it makes depends on its settings and the pictures only.

    :raises ValueError: this FFmpeg does not have it, or it refuses the settings.
    """

    def __init__(self, encoding: Encoding, time_base: Fraction, rate: Fraction | None, aspect: Fraction) -> None:
        import av
        from av.error import FFmpegError

        self.encoding, self._time_base = encoding, time_base
        try:
            context: Any = av.CodecContext.create(encoding.encoder, "w")
        except (FFmpegError, ValueError) as error:  # ValueError: unknown to this FFmpeg
            raise ValueError(
                f"This PyAV has no encoder {encoding.encoder}; choose ffv1, or install PyAV from its own wheels (pip "
                "install av)."
            ) from error
        configure(context, encoding, time_base, rate, aspect)
        context.options = {**dict(encoding.options), "threads": str(THREADS), "flags": "+global_header+bitexact"}
        try:
            context.open()
        except FFmpegError as error:
            raise ValueError(
                f"{encoding.encoder} does not take this film ({encoding.width} x {encoding.height}, {encoding.pixels}"
                f"): {error}. Choose ffv1."
            ) from error
        self._context, self._durations = context, dict[int, int]()

    @property
    def extradata(self) -> bytes:
        """What a container must hold of the encoder's settings."""
        return bytes(self._context.extradata or b"")

    def encode(self, picture: Tensor, pts: int, duration: int) -> Iterator[Packet]:
        """Give it a picture, (H, W, 3) in 0..1; packets come later than their pictures."""
        made = frame_of(picture, self.encoding.pixels, matrix=self.encoding.matrix, full=self.encoding.full)
        made.pts, made.time_base = pts, self._time_base
        for name in _NAMED_BY_FRAMES:
            if hasattr(made, name):  # the last two since PyAV 17
                setattr(made, name, getattr(self._context, name))
        self._durations[pts] = duration
        for packet in self._context.encode(made):
            yield self._kept(packet)

    def finish(self) -> Iterator[Packet]:
        """What it still holds."""
        for packet in self._context.encode(None):
            yield self._kept(packet)

    def _kept(self, packet: AvPacket) -> Packet:
        assert packet.pts is not None
        return Packet(packet.pts, self._durations.pop(packet.pts), bool(packet.is_keyframe), bytes(packet))


def configure(
    context: VideoCodecContext, encoding: Encoding, time_base: Fraction, rate: Fraction | None, aspect: Fraction
) -> None:
    """Size, format, times and colors of an encoder, or of a stream that holds what one made."""
    context.width, context.height = encoding.width, encoding.height
    context.pix_fmt = encoding.pixels
    context.time_base = time_base
    context.framerate = rate or Fraction(25)
    context.sample_aspect_ratio = aspect
    context.colorspace = _number(MATRICES, encoding.matrix)
    context.color_range = 2 if encoding.full else 1
    context.color_primaries = _number(PRIMARIES, encoding.primaries)
    context.color_trc = _number(TRANSFERS, encoding.transfer)


def _number(names: dict[int, str], name: str) -> int:
    return next((number for number, each in names.items() if each == name), 2)
