"""What PyAV reads and Pillow does not, or not to its depth: JPEG 2000 beyond 8 bits, 12-bit JPEG, EXR, Radiance HDR.

PyAV comes with ComfyUI; elsewhere ``pip install av``, and without it these files are refused.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from . import capture, exr, profiles
from .raster import Decoded, Raster, whole_numbers
from .room import check_room

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: FFmpeg's names -> channels and numpy's type, of formats whose channels of a pixel stand together.
PACKED = {"gray16le": (1, "<u2"), "ya16le": (2, "<u2"), "rgb48le": (3, "<u2"), "rgba64le": (4, "<u2")}
#: The same of formats with a plane for each channel, and the order of the planes.
PLANES = {
    "grayf32le": (0,),
    "gbrpf32le": (2, 0, 1),
    "gbrapf32le": (2, 0, 1, 3),
    "grayf16le": (0,),
    "gbrpf16le": (2, 0, 1),
    "gbrapf16le": (2, 0, 1, 3),
}
JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"
CODESTREAM = b"\xff\x4f\xff\x51"


def decode_jpeg2000(data: bytes) -> Decoded:
    """JPEG 2000 in color, or with transparency, beyond 8 bits.

    :raises ValueError: signed or uneven channels, no PyAV.
    """
    signed, bits, width, height = _siz(data)
    check_room(width, height)
    if any(signed) or len(set(bits)) > 1:
        raise ValueError(f"JPEG 2000 with signed or uneven channels ({', '.join(map(str, bits))} bits)")
    stored = _by_ffmpeg(data, "JPEG 2000 beyond 8 bits in color").astype("u2") >> (16 - bits[0])
    colors = stored.shape[2] - (stored.shape[2] + 1) % 2
    alpha = whole_numbers(stored[..., -1], bits[0]) if stored.shape[2] > colors else None
    raster = Raster(whole_numbers(stored[..., :colors], bits[0]), "gray" if colors == 1 else "rgb", alpha)
    raster.colors = jpeg2000_colors(data)
    return Decoded([raster], "JPEG 2000", bits[0], resolution=_jpeg2000_resolution(data))


def decode_jpeg(data: bytes) -> Decoded:
    """Gray JPEG of 12 bits.

    :raises ValueError: other depths, color, no PyAV.
    """
    bits = jpeg_bits(data)
    if bits != 12:
        raise ValueError(f"a JPEG file of {bits} bits; save as 16-bit PNG or TIFF")
    stored = _by_ffmpeg(data, "12-bit JPEG")
    if stored.shape[2] != 1:
        raise ValueError("12-bit JPEG in color; save as 16-bit PNG or TIFF")
    if b"\xff\xd9" not in data[-64:]:
        raise ValueError("the file is truncated: its end is missing")
    return Decoded([Raster(whole_numbers(stored.astype("u2") >> 4, 12), "gray")], "JPEG", 12)


def decode_exr(data: bytes) -> Decoded:
    """OpenEXR: linear values, which are given sRGB's curve.

    :raises ValueError: channels that are no picture, several parts, no PyAV.
    """
    header = exr.read_header(data)
    exr.check_whole(data, header)
    check_room(*header.size)
    notes: list[str] = []
    stored = _linear(_by_ffmpeg(data, "EXR"), notes)
    colors = stored.shape[2] - (stored.shape[2] + 1) % 2
    alpha = stored[..., -1].clip(0, 1) if stored.shape[2] > colors else None
    raster = Raster(stored[..., :colors], "gray" if colors == 1 else "rgb", alpha, premultiplied=alpha is not None)
    raster.colors = profiles.Colors(space=header.space)
    return Decoded([raster], "EXR", header.bits, True, header.resolution, notes=notes)


def decode_hdr(data: bytes) -> Decoded:
    """Radiance HDR: linear values, which are given sRGB's curve.

    :raises ValueError: other colors than RGB, no PyAV.
    """
    if b"FORMAT=32-bit_rle_rgbe" not in data[:4096]:
        raise ValueError("a Radiance file that is not RGB")
    notes: list[str] = []
    stored = _linear(_by_ffmpeg(data, "Radiance HDR"), notes)
    raster = Raster(stored, "rgb", colors=profiles.Colors(space=profiles.linear_srgb("linear, Radiance HDR")))
    return Decoded([raster], "HDR", 32, True, notes=notes)


def _linear(stored: NDArray[Any], notes: list[str]) -> NDArray[Any]:
    """(H, W, C) linear values in 0..1; highlights beyond are clipped with a note."""
    import numpy as np

    if not np.isfinite(stored).all():
        raise ValueError("its samples hold values that are no numbers (NaN or infinite)")
    stored = stored.astype(np.float32)
    low, high = float(stored.min()), float(stored.max())
    if low < 0 or high > 1.001:
        notes.append(f"its linear values run from {low:.4g} to {high:.4g}: what is outside 0..1 was clipped")
    return stored.clip(0, 1)


def _by_ffmpeg(data: bytes, kind: str) -> NDArray[Any]:
    """(H, W, C) samples of the first frame, as FFmpeg has them.

    :raises ValueError: PyAV is missing, or cannot read it.
    """
    import numpy as np

    try:
        import av
        from av.error import FFmpegError
    except ImportError:
        raise ValueError(f"{kind} is read by the package PyAV, which is not here: pip install av") from None
    try:
        with av.open(io.BytesIO(data)) as opened:
            frame = next(iter(opened.decode(video=0)))
    except (FFmpegError, StopIteration, IndexError, ValueError) as error:
        raise ValueError(f"{kind} that PyAV cannot read: {error}") from error
    name = frame.format.name
    if frame.is_corrupt:
        raise ValueError("the file is truncated or damaged")
    if name in PACKED:
        channels, kind_of_number = PACKED[name]
        plane = frame.planes[0]
        rows = np.frombuffer(bytes(plane), kind_of_number).reshape(frame.height, plane.line_size // 2)
        return rows[:, : frame.width * channels].reshape(frame.height, frame.width, channels)
    if name in PLANES:
        planes = [frame.planes[i] for i in PLANES[name]]
        number = np.dtype("<f2" if "f16" in name else "<f4")
        arrays = [np.frombuffer(bytes(p), number).reshape(frame.height, -1) for p in planes]
        return np.stack(arrays, -1)[:, : frame.width]
    raise ValueError(f"{kind} with samples that are not read ({name}); save as 16-bit PNG or TIFF")


def jpeg_bits(data: bytes) -> int:
    """Bits of a sample, from a JPEG file's frame header; 8 where there is none, about which Pillow has the say."""
    place = 2
    while place + 5 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # padding
            place += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return data[place + 4]
        place += 2 + struct.unpack(">H", data[place + 2 : place + 4])[0]
    return 8


def is_jpeg2000(data: bytes) -> bool:
    """The file is a JPEG 2000 picture or bare codestream."""
    return data.startswith((JP2, CODESTREAM))


def needs_more_than_pillow(data: bytes) -> bool:
    """Deeper than 8 bits in several channels: Pillow makes 8 bits of that, and white may come out black."""
    _, bits, *_ = _siz(data)
    return max(bits) > 8 and len(bits) > 1


def filled_up(samples: NDArray[Any], data: bytes) -> NDArray[Any]:
    """Gray of 9 to 15 bits, which Pillow moves to the high bits of 16, so that its white is 1."""
    bits = jpeg2000_bits(data)
    return samples * (65535 / ((2**bits - 1) << (16 - bits))) if 8 < bits < 16 else samples


def jpeg2000_bits(data: bytes) -> int:
    """Bits of a sample."""
    return max(_siz(data)[1])


def jpeg2000_colors(data: bytes) -> profiles.Colors:
    """The profile of a JPEG 2000 file.

    :raises ValueError: CIELAB.
    """
    for content in _inner(data, b"jp2h", b"colr"):
        if content[:1] in (b"\2", b"\3"):
            return profiles.Colors(content[3:])
        if content[3:7] == b"\0\0\0\x0e":
            raise ValueError("JPEG 2000 in CIELAB; save as RGB")
    return profiles.Colors()


def _jpeg2000_resolution(data: bytes) -> tuple[float, float] | None:
    """Dots per inch across and down, at which a picture was captured."""
    for box in _inner(data, b"jp2h", b"res "):
        for name, content in _boxes(box):
            if name == b"resc" and len(content) >= 10:
                down, down_by, across, across_by, down_power, across_power = struct.unpack(">4H2b", content[:10])
                if down_by and across_by:
                    x, y = across / across_by * 10**across_power, down / down_by * 10**down_power  # in a meter
                    return capture.resolution(x / 100, y / 100, unit=3)
    return None


def _inner(data: bytes, outer: bytes, wanted: bytes) -> list[bytes]:
    """The contents of the boxes of one name within those of another."""
    return [content for name, box in _boxes(data) if name == outer for inner, content in _boxes(box) if inner == wanted]


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(name, content) of each box."""
    place = 0
    while place + 8 <= len(data):
        length, name = struct.unpack(">I4s", data[place : place + 8])
        start = place + 8
        if length == 1 and place + 16 <= len(data):
            length, start = struct.unpack(">Q", data[place + 8 : place + 16])[0], place + 16
        end = len(data) if length == 0 else place + length
        if end < start:
            return
        yield name, data[start:end]
        place = end


def _siz(data: bytes) -> tuple[list[bool], list[int], int, int]:
    """Whether each channel is signed, its bits, and width and height.

    :raises ValueError: the file is cut off.
    """
    stream = data
    if not data.startswith(CODESTREAM):
        stream = next((content for name, content in _boxes(data) if name == b"jp2c"), b"")
    if not stream.startswith(CODESTREAM) or len(stream) < 45:
        raise ValueError("a JPEG 2000 file without a picture")
    if b"\xff\xd9" not in stream[-64:]:
        raise ValueError("the file is truncated: its end is missing")
    right, bottom, left, top = struct.unpack(">4I", stream[8:24])
    count = struct.unpack(">H", stream[40:42])[0]
    if not 1 <= count <= 4 or len(stream) < 42 + 3 * count:
        raise ValueError(f"a JPEG 2000 file of {count} channels")
    kinds = stream[42 : 42 + 3 * count : 3]
    return [bool(kind & 128) for kind in kinds], [(kind & 127) + 1 for kind in kinds], right - left, bottom - top
