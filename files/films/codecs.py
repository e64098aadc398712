"""What a film can be written as: a table, and what of it fits a film."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from ...color.yuv import WEIGHTS
from ..output import check_suffix
from .facts import FilmFacts

#: Containers by their suffixes, as FFmpeg calls their writers. Frames in a folder have none.
WRITERS = {".mkv": "matroska", ".mov": "mov", ".mp4": "mp4", ".mxf": "mxf"}
#: Threads of an encoder: some cut a picture by their number, so bytes must not depend on the machine's cores.
THREADS = 4


@dataclass(frozen=True)
class FilmCodec:
    """One way to write a film."""

    name: str
    help: str
    #: Suffixes of containers that take it, the usual one first; "" is a folder of pictures.
    suffixes: tuple[str, ...]
    bits: int
    #: FFmpeg's encoder, or the suffix of a picture's file.
    encoder: str
    #: FFmpeg's format of the samples, and that for a film with an odd side, where the usual one has none.
    pixels: str = ""
    odd: str = ""
    #: Refuses an odd width: FFmpeg's ProRes 422 spoils the last column of one (measured).
    even: bool = False
    #: The same for a film of more bits than ``bits``.
    deep: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    #: Smallest width and height.
    smallest: tuple[int, int] = (1, 1)
    #: Whether all codes may be used (JPEG's range) if the film's are.
    full: bool = True
    #: The one color matrix that its files can name; "" for any.
    matrix: str = ""
    #: A codec's mark in MP4 and MOV, where FFmpeg's own is not what players expect.
    tag: str = ""

    @property
    def is_folder(self) -> bool:
        """Whether frames are pictures in a folder."""
        return self.suffixes == ("",)


@dataclass(frozen=True)
class Encoding:
    """What an encoder is told, all that its bytes depend on."""

    encoder: str
    pixels: str
    width: int
    height: int
    matrix: str
    full: bool
    primaries: str
    transfer: str
    options: tuple[tuple[str, str], ...]
    tag: str


#: x264's faster code for some processors gives other bytes in each run (seen with its macroblock tree, 8 bits).
_X264 = {"crf": "16", "preset": "medium", "x264-params": "cpu-independent=1"}
_X265 = {"crf": "17", "preset": "fast", "x265-params": f"log-level=error:pools={THREADS}:frame-threads=2:info=0"}
_FFV1 = {"level": "3", "slices": "4", "slicecrc": "1", "g": "1"}
_LOSSLESS = "lossless; for archives and for work that goes on"

_TABLE = (
    FilmCodec(
        "ffv1",
        f"FFV1, {_LOSSLESS}: 10 bits and all chroma, RGB with 16 bits for a film of more than 10.",
        (".mkv",),
        10,
        "ffv1",
        "yuv444p10le",
        deep="gbrp16le",
        options=_FFV1,
    ),
    FilmCodec("ffv1-8", f"FFV1, {_LOSSLESS}: 8 bits.", (".mkv",), 8, "ffv1", "yuv444p", options=_FFV1),
    FilmCodec("ffv1-16", f"FFV1, {_LOSSLESS}: RGB with 16 bits.", (".mkv",), 16, "ffv1", "gbrp16le", options=_FFV1),
    FilmCodec(
        "prores",
        "ProRes 422 HQ, 10 bits: large files that every editing program takes.",
        (".mov", ".mxf"),
        10,
        "prores_ks",
        "yuv422p10le",
        even=True,
        options={"profile": "3", "vendor": "apl0"},
        full=False,
    ),
    FilmCodec(
        "prores4444",
        "ProRes 4444, 10 bits and all chroma.",
        (".mov", ".mxf"),
        10,
        "prores_ks",
        "yuv444p10le",
        options={"profile": "4", "vendor": "apl0"},
        full=False,
    ),
    FilmCodec(
        "dnxhr",
        "DNxHR HQX, 10 bits: large files for Avid and DaVinci, also in MXF.",
        (".mov", ".mxf"),
        10,
        "dnxhd",
        "yuv422p10le",
        options={"profile": "dnxhr_hqx"},
        smallest=(256, 120),
        full=False,
        matrix="bt709",
    ),
    FilmCodec(
        "dnxhr444",
        "DNxHR 444, 10 bits and all chroma.",
        (".mov", ".mxf"),
        10,
        "dnxhd",
        "yuv444p10le",
        options={"profile": "dnxhr_444"},
        smallest=(256, 120),
        full=False,
        matrix="bt709",
    ),
    FilmCodec(
        "h264",
        "H.264, 8 bits: small files that play anywhere.",
        (".mp4", ".mkv", ".mov"),
        8,
        "libx264",
        "yuv420p",
        odd="yuv444p",
        options=_X264,
        smallest=(16, 16),
    ),
    FilmCodec(
        "h264-10",
        "H.264, 10 bits: smoother gradients, but many players cannot show it.",
        (".mp4", ".mkv", ".mov"),
        10,
        "libx264",
        "yuv420p10le",
        odd="yuv444p10le",
        options=_X264,
        smallest=(16, 16),
    ),
    FilmCodec(
        "hevc",
        "HEVC, 8 bits: smaller files than H.264, slower to write.",
        (".mp4", ".mkv", ".mov"),
        8,
        "libx265",
        "yuv420p",
        odd="yuv444p",
        options=_X265,
        smallest=(64, 64),
        tag="hvc1",
    ),
    FilmCodec(
        "hevc-10",
        "HEVC, 10 bits: smaller files than H.264 and smooth gradients.",
        (".mp4", ".mkv", ".mov"),
        10,
        "libx265",
        "yuv420p10le",
        odd="yuv444p10le",
        options=_X265,
        smallest=(64, 64),
        tag="hvc1",
    ),
    FilmCodec("png", "A folder of PNG pictures, 16 bits.", ("",), 16, ".png"),
    FilmCodec("tiff", "A folder of TIFF pictures, 16 bits.", ("",), 16, ".tif"),
    FilmCodec("exr", "A folder of OpenEXR pictures, linear half floats.", ("",), 16, ".exr"),
)
#: Every way by its name.
CODECS: Mapping[str, FilmCodec] = MappingProxyType({each.name: each for each in _TABLE})
#: What a film of that suffix is written as where nothing else is said; "" is a folder of pictures.
USUAL: Mapping[str, str] = MappingProxyType(
    {".mp4": "h264", ".mov": "prores", ".mkv": "ffv1", ".mxf": "dnxhr", "": "png"}
)


def usual_codec(path: Path) -> str:
    """The name of the codec that a film of that name usually has; a name without a suffix is a folder's.

    :raises ValueError: a container that is not written.
    """
    suffix = path.suffix.lower()
    if suffix not in USUAL:
        films = ", ".join(each for each in USUAL if each)
        raise ValueError(
            f"{path}: films are not written as {path.suffix}; choose {films}, or a folder for numbered pictures."
        )
    return USUAL[suffix]


def codec_of(codec: str, path: Path) -> FilmCodec:
    """The way of that name, when it fits the name of the output.

    :raises ValueError: no such codec, or a container that does not take it.
    """
    if codec not in CODECS:
        raise ValueError(f"There is no codec {codec!r}; choose one of {', '.join(CODECS)}.")
    found = CODECS[codec]
    if found.is_folder:
        if path.suffix.lower() in WRITERS:
            raise ValueError(
                f"{codec} writes a folder of pictures, {path} is the name of a film; give a folder's name."
            )
        return found
    others = [each.name for each in _TABLE if path.suffix.lower() in each.suffixes and path.suffix]
    check_suffix(path, found.suffixes, f"For {path.suffix} there is {', '.join(others)}." if others else "")
    return found


def encoding_of(codec: FilmCodec, facts: FilmFacts) -> Encoding:
    """What the encoder is told for a film.

    :raises ValueError: a film too small for it.
    """
    if facts.width < codec.smallest[0] or facts.height < codec.smallest[1]:
        raise ValueError(
            f"The film is {facts.width} x {facts.height}; {codec.name} takes no less than {codec.smallest[0]} x "
            f"{codec.smallest[1]}. Choose ffv1."
        )
    if codec.even and facts.width % 2:
        raise ValueError(
            f"The film is {facts.width} x {facts.height}; {codec.name} takes even widths only. "
            "Choose prores4444 or ffv1."
        )
    pixels = codec.pixels
    if codec.odd and (facts.width % 2 or facts.height % 2):
        pixels = codec.odd
    if codec.deep and facts.bits > codec.bits:
        pixels = codec.deep
    if facts.matrix == "rgb" and codec.encoder == "ffv1":  # stays without loss as RGB
        pixels = {"yuv444p10le": "gbrp10le"}.get(pixels, pixels)
    is_hd = facts.width >= 1280 or facts.height >= 720
    matrix = facts.matrix if facts.matrix in WEIGHTS else "bt709" if is_hd else "smpte170m"
    matrix = codec.matrix or matrix
    usual = "bt2020" if matrix.startswith("bt2020") else matrix
    return Encoding(
        encoder=codec.encoder,
        pixels=pixels,
        width=facts.width,
        height=facts.height,
        matrix="rgb" if pixels.startswith("gb") else matrix,
        full=pixels.startswith("gb") or (codec.full and facts.full_range and facts.matrix != "rgb"),
        # untagged films get what players assume, so that they look the same in all of them
        primaries=facts.primaries or (usual if usual != "fcc" else "smpte170m"),
        transfer=facts.transfer or "bt709",
        options=tuple(codec.options.items()),
        tag=codec.tag,
    )
