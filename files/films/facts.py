"""What a film is, and what is assumed where its file says nothing."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from torch import Tensor

from ...color.yuv import WEIGHTS

if TYPE_CHECKING:
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame

#: FFmpeg's numbers of color matrices, primaries and transfers -> its names (H.273, tables 2 to 4).
MATRICES = {
    0: "rgb",
    1: "bt709",
    4: "fcc",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "ycgco",
    9: "bt2020nc",
    10: "bt2020c",
    14: "ictcp",
}
PRIMARIES = {
    1: "bt709",
    4: "bt470m",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "film",
    9: "bt2020",
    10: "smpte428",
    11: "smpte431",
    12: "smpte432",
}
TRANSFERS = {
    1: "bt709",
    4: "gamma22",
    5: "gamma28",
    6: "smpte170m",
    7: "smpte240m",
    8: "linear",
    11: "iec61966-2-4",
    13: "iec61966-2-1",
    14: "bt2020-10",
    15: "bt2020-12",
    16: "smpte2084",
    18: "arib-std-b67",
}
#: FFmpeg's number for codes that are all used.
_FULL = 2
#: From these sides on a film counts as high definition.
_HD = (1280, 720)


@dataclass(frozen=True)
class FilmFacts:
    """A film as it is shown: upright, so its width is that of the picture when its file says to turn it."""

    #: In pixels, as shown upright.
    width: int
    height: int
    #: What the header says, if it does.
    frames: int | None
    #: Frames a second, on average.
    rate: Fraction | None
    #: Seconds of one step of the times below.
    time_base: Fraction
    #: Bits of a sample in the file.
    bits: int
    #: As used: a name of FFmpeg's, "rgb" where there is none.
    matrix: str
    #: All codes are used (JPEG's range).
    full_range: bool
    #: FFmpeg's names, as the file says.
    primaries: str | None = None
    transfer: str | None = None
    #: Sentences on what the file does not say.
    assumed: tuple[str, ...] = ()
    #: Interlaced in the file; frames are whole ones of it then, see ``deinterlace`` of :func:`.reading.open_film`.
    interlaced: bool = False
    #: Width of a pixel in its heights, as shown upright.
    aspect: Fraction = Fraction(1)
    #: Degrees counterclockwise by which frames were turned to be upright.
    rotation: int = 0
    #: Streams of sound.
    audio: int = 0
    #: Of the first frame, as HH:MM:SS:FF.
    timecode: str | None = None
    #: FFmpeg's names.
    container: str = ""
    codec: str = ""


@dataclass(frozen=True)
class FilmFrame:
    """One frame of a film."""

    #: From 0.
    index: int
    #: When it is shown and for how long, in the film's time base.
    pts: int
    duration: int
    #: (H, W, 3) float32 in 0..1, R'G'B', upright.
    picture: Tensor


@dataclass(frozen=True)
class Colors:
    """How a file's codes are read."""

    matrix: str
    full: bool
    primaries: str | None
    transfer: str | None
    assumed: tuple[str, ...]


def colors_of(frame: VideoFrame, codec: VideoCodecContext) -> Colors:
    """How the codes of a film are to be read, by its first frame.

    Where the file does not name a matrix, high definition is BT.709 and the rest BT.601, as players take it: FFmpeg's
    own conversion takes BT.601 for all.

    :param codec: the decoder, which is asked what frames of PyAV before 17 do not tell.
    :raises ValueError: a matrix that is not read.
    """
    said, assumed = MATRICES.get(int(frame.colorspace)), list[str]()
    form = frame.format
    if form.is_rgb or form.has_palette:
        matrix, full = "rgb", True
    else:
        is_jpeg = form.name.startswith(("yuvj", "gray", "mono"))
        full = int(frame.color_range) == _FULL or (is_jpeg and int(frame.color_range) == 0)
        matrix = said or _usual(frame.width, frame.height)
        if said is None and not is_jpeg:
            large = matrix == "bt709"
            assumed.append(
                f"The file names no color matrix: {'BT.709' if large else 'BT.601'} was assumed, as is usual "
                f"{'from' if large else 'below'} 1280 x 720."
            )
        if int(frame.color_range) == 0:
            assumed.append(f"The file names no range: {'full' if full else 'limited'} was assumed.")
        if matrix != "rgb" and matrix not in WEIGHTS:
            raise ValueError(
                f"The film's color matrix is {matrix}, which is not read; convert it to BT.709 or BT.2020 "
                "(non-constant luminance) first."
            )
    transfer = TRANSFERS.get(int(getattr(frame, "color_trc", codec.color_trc)))
    if transfer in ("smpte2084", "arib-std-b67", "linear"):
        assumed.append(
            f"The film's transfer is {transfer}: its values are taken as they are and written under that name."
        )
    primaries = PRIMARIES.get(int(getattr(frame, "color_primaries", codec.color_primaries)))
    return Colors(matrix, full, primaries, transfer, tuple(assumed))


def _usual(width: int, height: int) -> str:
    return "bt709" if width >= _HD[0] or height >= _HD[1] else "smpte170m"
