"""The strips and tiles of a TIFF page, unpacked to samples.

libtiff, as Pillow brings it, knows the compressions, but Pillow hands on only the sample formats that it has modes for;
tifffile knows the sample formats, but leaves LZW, CCITT, JPEG and 12 bits to a package of many megabytes. So libtiff
unpacks each strip here, as bytes, and numpy reads the samples: every compression with every sample format.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from .tiff_tags import Directory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NONE, LZW, OLD_JPEG, JPEG, DEFLATE, OLD_DEFLATE, PACKBITS, LZMA, ZSTD, WEBP = (
    1, 5, 6, 7, 8, 32946, 32773, 34925, 50000, 50001,
)  # fmt: skip
CCITT = (2, 3, 4)
#: Packed bytes, whatever they mean.
OF_BYTES = (NONE, LZW, DEFLATE, OLD_DEFLATE, PACKBITS, LZMA, ZSTD)
#: Those that a predictor goes with; with others its tag means nothing.
PREDICTED = (LZW, DEFLATE, OLD_DEFLATE, LZMA, ZSTD)
#: Coded pictures: what comes out are 8-bit samples, or bits.
OF_PIXELS = (*CCITT, JPEG, WEBP)
NAMES = {
    OLD_JPEG: "old-style JPEG",
    34712: "JPEG 2000",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34887: "LERC",
    34676: "SGI LogLuv",
    34677: "SGI LogLuv",
    34892: "lossy DNG",
    50002: "JPEG XL",
    52546: "JPEG XL",
    32771: "CCITT with padded words",
    32809: "ThunderScan",
    32908: "PixarFilm",
    32909: "PixarLog",
    WEBP: "WebP",
    ZSTD: "Zstandard",
    LZMA: "LZMA",
}
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
#: A byte -> the one whose bits run the other way.
REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


@dataclass(frozen=True)
class Layout:
    """How a page's samples are stored."""

    width: int
    height: int
    bits: int
    samples: int
    #: Unsigned or floating-point; nothing else is read.
    sample_format: int
    compression: int
    photometric: int
    predictor: int
    #: Each channel has strips of its own.
    planar: bool
    #: Bits of a byte run from the low one on.
    reversed: bool
    order: Literal["<", ">"]
    #: Chroma samples for (across, down) pixels; (1, 1) where there is no subsampling.
    subsampling: tuple[int, int] = (1, 1)

    @property
    def dtype(self) -> np.dtype:
        """What numpy calls a sample, in the machine's byte order."""
        import numpy as np

        if self.sample_format == FLOAT:
            return np.dtype(f"f{self.bits // 8}")
        size = next(size for size in (1, 2, 4, 8) if size * 8 >= self.bits)
        return np.dtype(f"u{size}")


def read_samples(file: BinaryIO, page: Directory, layout: Layout) -> NDArray[Any]:
    """(H, W, C) samples of a page, as stored.

    :raises ValueError: what cannot be unpacked, by name.
    """
    import numpy as np

    of_pixels = layout.compression in OF_PIXELS
    planes = layout.samples if layout.planar else 1
    channels = 1 if layout.planar else layout.samples
    result = np.empty((layout.height, layout.width, layout.samples), np.uint8 if of_pixels else layout.dtype)
    for plane, top, left, rows, columns, data in _segments(file, page, layout, planes):
        unpack = _pixels if of_pixels else _bytes
        block = unpack(data, page, layout, rows, columns, channels)
        part = result[top : top + rows, left : left + columns]
        block = block[: part.shape[0], : part.shape[1]]
        if layout.planar:
            part[..., plane] = block[..., 0]
        else:
            part[...] = block
    return result


def _segments(
    file: BinaryIO, page: Directory, layout: Layout, planes: int
) -> Iterator[tuple[int, int, int, int, int, bytes]]:
    """(plane, top, left, rows, columns, packed bytes) of each strip or tile."""
    tiled = 322 in page
    rows = page.number(323, 0) if tiled else min(page.number(278, 2**32 - 1), layout.height)
    columns = page.number(322, 0) if tiled else layout.width
    offsets, counts = (page.numbers(tag) for tag in ((324, 325) if tiled else (273, 279)))
    if rows < 1 or columns < 1:
        raise ValueError("its tags name no rows of a strip or tile")
    down, across = -(-layout.height // rows), -(-layout.width // columns)
    if not counts and len(offsets) == 1:  # old writers leave the count of a single strip out
        file.seek(0, 2)
        counts = (file.tell() - offsets[0],)
    if len(offsets) < planes * down * across or len(counts) < len(offsets):
        raise ValueError(f"{len(offsets)} strips or tiles, expected {planes * down * across}")
    for index in range(planes * down * across):
        plane, place = divmod(index, down * across)
        top, left = place // across * rows, place % across * columns
        file.seek(offsets[index])
        data = file.read(counts[index])
        if len(data) < counts[index] or not data:
            raise ValueError("the file is truncated: a strip ends after the file does")
        if layout.reversed and layout.compression != JPEG:
            data = data.translate(REVERSED)
        yield plane, top, left, rows if tiled else min(rows, layout.height - top), columns, data


def _bytes(data: bytes, page: Directory, layout: Layout, rows: int, columns: int, channels: int) -> NDArray[Any]:
    """(rows, columns, channels) samples of a strip of packed bytes."""
    import numpy as np

    if layout.subsampling != (1, 1):
        return _subsampled(data, layout, rows, columns)
    width = -(-columns * channels * layout.bits // 8)
    raw = np.frombuffer(_unpacked(data, layout.compression, width, rows), np.uint8, width * rows).reshape(rows, width)
    if layout.predictor == 3:
        return _float_predicted(raw, layout, rows, columns, channels)
    if layout.bits in (8, 16, 32, 64):
        stored = raw.view(layout.dtype.newbyteorder(layout.order)).astype(layout.dtype, copy=False)
        stored = stored.reshape(rows, columns, channels)
    else:
        stored = _odd_bits(raw, layout, columns * channels).reshape(rows, columns, channels)
    if layout.predictor != 2:
        return stored
    if layout.bits not in (8, 16, 32, 64):
        raise ValueError(f"a predictor with {layout.bits} bits")
    whole_numbers = stored.view(f"u{layout.bits // 8}")  # differences wrap around
    return np.cumsum(whole_numbers, axis=1, dtype=whole_numbers.dtype).view(layout.dtype)


def _odd_bits(raw: NDArray[Any], layout: Layout, count: int) -> NDArray[Any]:
    """(rows, count) samples of 1 to 31 bits, the first in the highest bits."""
    import numpy as np

    if layout.bits == 24:  # whole bytes: in the file's order
        parts = raw.reshape(len(raw), count, 3).astype(np.uint32)
        low, middle, high = (0, 1, 2) if layout.order == "<" else (2, 1, 0)
        return parts[..., low] | parts[..., middle] << 8 | parts[..., high] << 16
    result = np.empty((len(raw), count), layout.dtype)
    weights = 1 << np.arange(layout.bits - 1, -1, -1, dtype=np.int64)
    step = max(1, 4_000_000 // (count * layout.bits))
    for row in range(0, len(raw), step):
        bits = np.unpackbits(raw[row : row + step], axis=1)[:, : count * layout.bits]
        result[row : row + step] = bits.reshape(len(bits), count, layout.bits) @ weights
    return result


def _float_predicted(raw: NDArray[Any], layout: Layout, rows: int, columns: int, channels: int) -> NDArray[Any]:
    """Floats whose bytes were sorted by weight and stored as differences (TIFF Technical Note 3)."""
    import numpy as np

    if layout.sample_format != FLOAT:
        raise ValueError("a predictor for floating-point numbers with samples that are none")
    size = layout.bits // 8
    summed = np.cumsum(raw.reshape(rows, -1, channels), axis=1, dtype=np.uint8).reshape(rows, size, columns * channels)
    floats = np.ascontiguousarray(summed.transpose(0, 2, 1)).view(f">f{size}")
    return floats.astype(layout.dtype).reshape(rows, columns, channels)


def _subsampled(data: bytes, layout: Layout, rows: int, columns: int) -> NDArray[Any]:
    """(rows, columns, 3) Y, Cb, Cr of 8 bits, stored as blocks of Y with one Cb and one Cr."""
    import numpy as np

    across, down = layout.subsampling
    blocks = -(-rows // down), -(-columns // across)
    width = blocks[1] * (across * down + 2)
    raw = np.frombuffer(_unpacked(data, layout.compression, width, blocks[0]), np.uint8, width * blocks[0])
    raw = raw.reshape(*blocks, across * down + 2)
    luma = raw[..., :-2].reshape(*blocks, down, across).swapaxes(1, 2).reshape(blocks[0] * down, blocks[1] * across)
    chroma = raw[..., -2:].repeat(down, 0).repeat(across, 1)
    return np.dstack([luma, chroma])[:rows, :columns]


def _unpacked(data: bytes, compression: int, width: int, rows: int) -> bytes:
    """``width`` times ``rows`` bytes.

    :raises ValueError: fewer came out.
    """
    if compression == NONE:
        out = data
    elif compression in (DEFLATE, OLD_DEFLATE):
        try:
            out = zlib.decompressobj().decompress(data)
        except zlib.error as error:
            raise ValueError(f"a damaged strip: {error}") from error
    else:
        tags = {
            256: (4, width),
            257: (4, rows),
            258: (3, 8),
            259: (3, compression),
            262: (3, 1),
            277: (3, 1),
            278: (4, rows),
        }
        out = _by_libtiff(tags, data, compression).tobytes()
    if len(out) < width * rows:
        raise ValueError("the file is truncated: a strip holds fewer pixels than it should")
    return out


def _pixels(data: bytes, page: Directory, layout: Layout, rows: int, columns: int, channels: int) -> NDArray[Any]:
    """(rows, columns, channels) 8-bit samples, or bits, of a strip that is a coded picture."""
    tags: dict[int, tuple[int, Any]] = {256: (4, columns), 257: (4, rows), 259: (3, layout.compression), 278: (4, rows)}
    if layout.compression in CCITT:
        tags |= {258: (3, 1), 262: (3, 1), 277: (3, 1)}
        tags |= {tag: (4, page.number(tag, 0)) for tag in (292, 293) if tag in page}
        if channels != 1 or layout.bits != 1:
            raise ValueError("CCITT compression of more than one bit")
    else:
        photometric = 1 if channels == 1 else layout.photometric
        tags |= {258: (3, (8,) * channels), 262: (3, photometric), 277: (3, channels), 284: (3, 1)}
        if channels == 4 and photometric == 2:
            tags[338] = (3, 2)
        if tables := page.data(347):
            tags[347] = (7, tables)
        if photometric == 6:
            tags[530] = (3, layout.subsampling)
    found = _webp(data) if layout.compression == WEBP else _by_libtiff(tags, data, layout.compression)
    if found.shape[2] != channels:
        raise ValueError(f"{found.shape[2]} channels in a strip, expected {channels}")
    return found


def _webp(data: bytes) -> NDArray[Any]:
    """(H, W, C) of a strip that is a WebP file."""
    import numpy as np
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["WEBP"]) as opened:
            return np.asarray(opened)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"a WebP strip that Pillow cannot unpack: {error}") from error


def _by_libtiff(tags: dict[int, tuple[int, Any]], data: bytes, compression: int) -> NDArray[Any]:
    """(H, W, C) of one strip, as a TIFF file of its own that Pillow reads."""
    import numpy as np
    from PIL import Image
    from PIL.TiffImagePlugin import TiffImageFile

    class Strip(TiffImageFile):
        def load_prepare(self) -> None:
            """Room for the pixels, made here so that Pillow does not look at their number: a user named this file."""
            self.im = Image.new(self.mode, self.size).im
            super().load_prepare()

    try:
        with Strip(io.BytesIO(small_tiff(tags, data))) as opened:
            opened.load()
            found = np.asarray(opened)
    except (OSError, SyntaxError, ValueError, KeyError) as error:
        kind = NAMES.get(compression, "compressed")
        raise ValueError(f"a {kind} strip that Pillow's libtiff cannot unpack: {error}") from error
    return found[..., None] if found.ndim == 2 else found


def small_tiff(tags: dict[int, tuple[int, Any]], data: bytes) -> bytes:
    """A little-endian TIFF file of one strip: its tags as of :func:`directory`, and the strip's bytes."""
    body = data + b"\0" * (len(data) % 2)
    tags = {**tags, 273: (4, 8), 279: (4, len(data))}
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + directory(tags, 8 + len(body))


def directory(tags: dict[int, tuple[int, Any]], start: int) -> bytes:
    """A page's tags as they stand in a little-endian file from ``start`` on.

    :param tags: number -> type and values: bytes, or whole numbers, or floats for rationals.
    """
    entries, further = b"", b""
    after = start + 2 + 12 * len(tags) + 4
    for tag, (kind, values) in sorted(tags.items()):
        if not isinstance(values, (bytes, tuple)):
            values = (values,)
        if isinstance(values, bytes):
            packed = values
        elif kind == 5:
            packed = b"".join(struct.pack("<II", round(value * 10000), 10000) for value in values)
        else:
            packed = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(packed) > 4:
            place, further = struct.pack("<I", after + len(further)), further + packed + b"\0" * (len(packed) % 2)
        else:
            place = packed.ljust(4, b"\0")
        entries += struct.pack("<HHI", tag, kind, len(values)) + place
    return struct.pack("<H", len(tags)) + entries + b"\0" * 4 + further
