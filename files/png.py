"""PNG: its chunks, and samples of 16 bits, which Pillow halves in color."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import profiles

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Color types.
GRAY, RGB, PALETTE, GRAY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
#: Within this share of sRGB's 1 / 2.2 a gamma means sRGB, as libpng has it.
THRESHOLD = 0.05
#: cICP's numbers.
PRIMARIES = {
    1: ("BT.709", profiles.SRGB_PRIMARIES, profiles.D65),
    9: ("BT.2020", ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)), profiles.D65),
    11: ("DCI-P3", ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), (0.314, 0.351)),
    12: ("Display P3", ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), profiles.D65),
}
TRANSFERS = {4: profiles.power(2.2), 5: profiles.power(2.8), 8: lambda v: v, 13: profiles.decode}
HDR = {16: "PQ", 18: "HLG"}


@dataclass(frozen=True)
class Header:
    """What the chunks say; only the first of each kind counts."""

    width: int
    height: int
    bits: int
    kind: int
    chunks: dict[bytes, bytes] = field(repr=False)

    @property
    def resolution(self) -> tuple[float, float] | None:
        """Dots per inch across and down."""
        data = self.chunks.get(b"pHYs", b"")
        if len(data) != 9 or data[8] != 1:  # in no unit
            return None
        x, y = struct.unpack(">II", data[:8])
        return (round(x * 0.0254, 2), round(y * 0.0254, 2)) if min(x, y) > 40 else None


def read_header(data: bytes) -> Header:
    """The chunks of a PNG file.

    :raises ValueError: it ends before its end chunk.
    """
    chunks: dict[bytes, bytes] = {}
    place = len(SIGNATURE)
    while True:
        if place + 8 > len(data):
            raise ValueError("the file is truncated: its end chunk is missing")
        length, name = struct.unpack(">I4s", data[place : place + 8])
        if place + 12 + length > len(data):
            raise ValueError(f"the file is truncated: it ends within its {name.decode('latin-1')} chunk")
        if name == b"IEND":
            break
        if name not in (b"IDAT", b"fdAT"):
            chunks.setdefault(name, data[place + 8 : place + 8 + length])
        place += 12 + length
    if len(chunks.get(b"IHDR", b"")) != 13:
        raise ValueError("a PNG file without its header chunk")
    width, height, bits, kind = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    return Header(width, height, bits, kind, chunks)


def check_pixels(data: bytes, header: Header) -> None:
    """Refuse a file with fewer pixels than it should have: Pillow leaves the rest black, without a word.

    :raises ValueError: there are fewer, or they are damaged.
    """
    channels = {GRAY: 1, RGB: 3, PALETTE: 1, GRAY_ALPHA: 2, RGB_ALPHA: 4}.get(header.kind, 1)
    passes = [(header.width, header.height)]
    if header.chunks[b"IHDR"][12]:  # interlaced: left, across, top, down of each pass
        steps = ((0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2))
        passes = [(-((x - header.width) // dx), -((y - header.height) // dy)) for x, dx, y, dy in steps]
    expected = sum(h * (1 + -(-w * channels * header.bits // 8)) for w, h in passes if w > 0 and h > 0)
    unpacker, found, place = zlib.decompressobj(), 0, len(SIGNATURE)
    try:
        while found < expected and not unpacker.eof:
            length, name = struct.unpack(">I4s", data[place : place + 8])
            rest = data[place + 8 : place + 8 + length] if name == b"IDAT" else b""
            while rest:
                found += len(unpacker.decompress(rest, 1 << 20))
                rest = unpacker.unconsumed_tail
            if name == b"IEND":
                break
            place += 12 + length
        found += len(unpacker.flush())
    except zlib.error as error:
        raise ValueError(f"damaged pixels: {error}") from error
    if found < expected:
        raise ValueError("the file is truncated: it holds fewer pixels than it should")


def sixteen_bits(data: bytes, header: Header) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """(H, W, 1 or 3) samples and (H, W) alpha, all 16 bits of them.

    Pillow unpacks color to the high bytes; the same file unpacked once more as if its bytes were swapped gives the low
    ones.
    """
    import numpy as np

    if header.kind == GRAY:
        return _unpacked(data, None).astype(np.uint16)[..., None], None
    if header.kind == GRAY_ALPHA:  # four bytes of a pixel, whatever they mean
        parts = _unpacked(data, "RGBA").astype(np.uint16)
        both = parts[..., ::2] << 8 | parts[..., 1::2]
        return both[..., :1], both[..., 1]
    mode = "RGB" if header.kind == RGB else "RGBA"
    both = _unpacked(data, f"{mode};16B").astype(np.uint16)
    both <<= 8
    both |= _unpacked(data, f"{mode};16L")
    return both[..., :3], both[..., 3] if header.kind == RGB_ALPHA else None


def _unpacked(data: bytes, raw: str | None) -> NDArray[Any]:
    """What Pillow unpacks, with the order of bytes that is said."""
    import numpy as np
    from PIL.PngImagePlugin import PngImageFile

    with PngImageFile(io.BytesIO(data)) as image:
        if raw is not None:
            image.tile = [(*tile[:3], raw) for tile in image.tile]  # pyright: ignore[reportAttributeAccessIssue]
        image.load()
        return np.asarray(image)


def transparent_color(header: Header) -> tuple[int, ...] | None:
    """The one stored color that is transparent, where the file names one instead of an alpha channel."""
    data = header.chunks.get(b"tRNS", b"")
    count = {GRAY: 1, RGB: 3}.get(header.kind, 0)
    if not count or len(data) < 2 * count:
        return None
    return tuple(value & (2**header.bits - 1) for value in struct.unpack(f">{count}H", data[: 2 * count]))


def colors(header: Header, icc: bytes | None) -> profiles.Colors:
    """What the chunks say about colors, the strongest first: cICP, iCCP, sRGB, gAMA with cHRM.

    :raises ValueError: values for displays of high dynamic range, or for video.
    """
    code = header.chunks.get(b"cICP", b"")
    if len(code) == 4:
        if not code[3]:
            raise ValueError("values in video's narrow range; save with the full range")
        return coded(code[0], code[1])
    if icc:
        return profiles.Colors(icc)
    if b"iCCP" in header.chunks:
        return profiles.Colors(note="its color profile is broken: its values are taken as sRGB")
    if b"sRGB" in header.chunks or len(header.chunks.get(b"gAMA", b"")) != 4:
        return profiles.Colors()
    try:
        return profiles.Colors(space=_by_gamma(header))
    except (ValueError, ArithmeticError):
        return profiles.Colors(note="its gamma and primaries make no color space: its values are taken as sRGB")


def _by_gamma(header: Header) -> profiles.Space:
    """The space of gAMA and cHRM.

    :raises ValueError: their numbers make none.
    """
    gamma = struct.unpack(">I", header.chunks[b"gAMA"])[0] / 100000
    if gamma <= 0:
        raise ValueError("gamma 0")
    curve = profiles.decode if abs(gamma * 2.2 - 1) <= THRESHOLD else profiles.power(1 / gamma)
    name = f"gamma {1 / gamma:.2f}"
    chroma = header.chunks.get(b"cHRM", b"")
    if header.kind in (GRAY, GRAY_ALPHA):
        return profiles.Space(name, (curve,))
    if len(chroma) != 32:
        return profiles.from_primaries(name, profiles.SRGB_PRIMARIES, profiles.D65, curve)
    points = [value / 100000 for value in struct.unpack(">8I", chroma)]
    pairs = list(zip(points[::2], points[1::2], strict=True))
    return profiles.from_primaries(f"{name}, own primaries", pairs[1:], pairs[0], curve)


def coded(primaries: int, transfer: int) -> profiles.Colors:
    """Colors by the code points that PNG (cICP) and AVIF share with video.

    :raises ValueError: high dynamic range.
    """
    if transfer in HDR:
        raise ValueError(f"{HDR[transfer]} values, for displays of high dynamic range; save as sRGB first")
    if primaries == 2 and transfer in (2, 13):  # not said
        return profiles.Colors()
    if primaries not in PRIMARIES and primaries != 2:
        return profiles.Colors(note=f"its primaries, number {primaries}, are not known: taken as sRGB")
    name, points, white = PRIMARIES[1 if primaries == 2 else primaries]
    curve = TRANSFERS.get(transfer, profiles.decode)  # film's curve is shown as sRGB by what shows pictures
    return profiles.Colors(space=profiles.from_primaries(name, points, white, curve))
