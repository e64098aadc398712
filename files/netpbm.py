"""PBM, PGM and PPM at their full depth, which Pillow halves in color."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from .raster import Decoded, Raster, whole_numbers
from .room import check_room

if TYPE_CHECKING:
    from numpy.typing import NDArray

KINDS = re.compile(rb"P[1-6](?=[\s#])")
SPACE = re.compile(rb"(?:\s|#[^\n\r]*[\n\r])+")


def decode(data: bytes) -> Decoded:
    """The first picture of the file.

    :raises ValueError: it is cut off, or its numbers make no sense.
    """
    plain, kind = data[1:2] in b"123", int(data[1:2]) % 3  # 1 bits, 2 gray, 0 color
    numbers, place = [], 2
    for _ in range(2 if kind == 1 else 3):
        gap = SPACE.match(data, place)
        digits = re.compile(rb"\d+").match(data, gap.end()) if gap else None
        if digits is None:
            raise ValueError("a Netpbm file without width, height and highest value")
        numbers.append(int(digits.group()))
        place = digits.end()
    width, height, most = numbers[0], numbers[1], numbers[2] if kind != 1 else 1
    if not 1 <= most <= 65535:
        raise ValueError(f"a Netpbm file with {most} as its highest value, expected 1 to 65535")
    check_room(width, height)
    channels = 3 if kind == 0 else 1
    shape = (height, width, channels)
    stored = _plain(data, place, shape, kind) if plain else _packed(data, place, shape, kind, most)
    if stored.max() > most:
        raise ValueError(f"a Netpbm file with values up to {stored.max()} where it names {most} as the highest")
    if kind == 1:
        stored = 1 - stored  # 1 is black
    bits = max(1, int(most).bit_length())
    samples = whole_numbers(stored, bits) if most == 2**bits - 1 else (stored / most).astype("f4")
    return Decoded([Raster(samples, "gray" if channels == 1 else "rgb")], "PPM" if channels == 3 else "PGM", bits)


def _plain(data: bytes, place: int, shape: tuple[int, int, int], kind: int) -> NDArray[Any]:
    """Samples written as words."""
    import numpy as np

    body = re.sub(rb"#[^\n\r]*", b"", data[place:])
    words = re.findall(rb"[01]", body) if kind == 1 else body.split()
    count = shape[0] * shape[1] * shape[2]
    try:
        values = np.array([int(word) for word in words[:count]], np.int64)
    except ValueError as error:
        raise ValueError(f"a Netpbm file with something else than numbers: {error}") from error
    return _shaped(values, shape)


def _packed(data: bytes, place: int, shape: tuple[int, int, int], kind: int, most: int) -> NDArray[Any]:
    """Samples as bytes, or two bytes with the high one first, or bits."""
    import numpy as np

    place += 1  # one space
    count = shape[0] * shape[1] * shape[2]
    if kind == 1:
        width = -(-shape[1] // 8)
        rows = np.frombuffer(data[place : place + width * shape[0]], np.uint8)
        if len(rows) < width * shape[0]:
            raise ValueError("the file is truncated: it ends within its pixels")
        return np.unpackbits(rows.reshape(shape[0], width), axis=1)[:, : shape[1], None].astype(np.int64)
    size = 2 if most > 255 else 1
    found = data[place : place + count * size]
    return _shaped(np.frombuffer(found[: len(found) // size * size], f">u{size}").astype(np.uint16), shape)


def _shaped(values: NDArray[Any], shape: tuple[int, int, int]) -> NDArray[Any]:
    if len(values) < shape[0] * shape[1] * shape[2]:
        raise ValueError("the file is truncated: it ends within its pixels")
    return values.reshape(shape)
