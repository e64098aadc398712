"""OpenEXR files: the header, and a writer of half floats with attributes.

PyAV, which reads the pixels, writes none of the attributes that hold resolution, primaries and workflow; the OpenEXR
package would, but ComfyUI does not bring it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from . import profiles

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAGIC = b"\x76\x2f\x31\x01"
#: Flags of the version: deep samples, several parts.
DEEP, PARTS = 0x800, 0x1000
CHROMATICITIES = tuple(value for point in (*profiles.SRGB_PRIMARIES, profiles.D65) for value in point)
PIXELS = {0: 32, 1: 16, 2: 32}
#: Rows in a block, by compression.
BLOCKS = {0: 1, 1: 1, 2: 1, 3: 16, 4: 32, 5: 16, 6: 32, 7: 32, 8: 32, 9: 256}
#: Compression by zlib, sixteen rows in a block.
ZIP, ROWS = 3, 16


@dataclass(frozen=True)
class Header:
    """What an EXR header says."""

    size: tuple[int, int]
    bits: int
    space: profiles.Space
    resolution: tuple[float, float] | None
    attributes: dict[str, bytes]
    #: Where the table of the blocks' places begins.
    table: int


def read_header(data: bytes) -> Header:
    """The attributes of an EXR file.

    :raises ValueError: deep or several parts, channels that are no RGB and no gray.
    """
    version = struct.unpack("<I", data[4:8])[0] if len(data) > 8 else 0
    if version & (DEEP | PARTS):
        raise ValueError("EXR with several parts or deep samples; save one flat part")
    attributes, place = {}, 8
    try:
        while data[place]:
            name, kind, _ = data[place : place + 1000].split(b"\0", 2)
            start = place + len(name) + len(kind) + 6
            length = struct.unpack("<I", data[start - 4 : start])[0]
            attributes[name.decode("latin-1")] = data[start : start + length]
            place = start + length
        left, top, right, bottom = struct.unpack("<4i", attributes["displayWindow"])
        channels = _channels(attributes["channels"])
    except (ValueError, IndexError, KeyError, struct.error) as error:
        raise ValueError("the file is truncated: its header ends early") from error
    names = set(channels)
    if names not in ({"R", "G", "B"}, {"R", "G", "B", "A"}, {"Y"}):
        raise ValueError(f"EXR with the channels {', '.join(sorted(names))}, expected R, G, B, with A or without, or Y")
    space = profiles.linear_srgb("linear, EXR")
    if len(found := attributes.get("chromaticities", b"")) == 32:
        points = struct.unpack("<8f", found)
        pairs = list(zip(points[::2], points[1::2], strict=True))
        space = profiles.from_primaries("linear, EXR", pairs[:3], pairs[3], lambda v: v)
    density = attributes.get("xDensity", b"")
    across = round(struct.unpack("<f", density)[0], 2) if len(density) == 4 else 0
    aspect = struct.unpack("<f", attributes.get("pixelAspectRatio", b"\0\0\x80?"))[0]
    resolution = (across, round(across * aspect, 2)) if across > 1 and aspect > 0 else None
    bits = max(PIXELS.get(kind, 32) for kind in channels.values())
    return Header((right - left + 1, bottom - top + 1), bits, space, resolution, attributes, place + 1)


def check_whole(data: bytes, header: Header) -> None:
    """Refuse a file that ends within its blocks: FFmpeg fills the rest up without a word.

    :raises ValueError: it does.
    """
    try:
        left, top, right, bottom = struct.unpack("<4i", header.attributes["dataWindow"])
        if tiles := header.attributes.get("tiles"):
            across, down = struct.unpack("<II", tiles[:8])
            count, head = -((left - right - 1) // across) * -((top - bottom - 1) // down), 20
        else:
            rows = BLOCKS.get(header.attributes["compression"][0], 1)
            count, head = -((top - bottom - 1) // rows), 8
        places = struct.unpack(f"<{count}Q", data[header.table : header.table + 8 * count])
        sizes = [struct.unpack("<I", data[place + head - 4 : place + head])[0] for place in places]
    except (struct.error, KeyError, IndexError, ZeroDivisionError) as error:
        raise ValueError("the file is truncated: blocks are missing") from error
    if any(place + head + size > len(data) for place, size in zip(places, sizes, strict=True)):
        raise ValueError("the file is truncated: it ends within a block")


def _channels(data: bytes) -> dict[str, int]:
    """Name -> type of each channel."""
    found, place = {}, 0
    while data[place]:
        end = data.index(b"\0", place)
        found[data[place:end].decode("latin-1")] = struct.unpack("<i", data[end + 1 : end + 5])[0]
        place = end + 17
    return found


def write(
    file: BinaryIO, linear: NDArray[Any], resolution: tuple[float, float] | None, texts: Mapping[str, str]
) -> None:
    """(H, W, 3) linear values with sRGB's primaries, as half floats.

    :param texts: further attributes, by their names.
    """
    import numpy as np

    height, width, _ = linear.shape
    box = struct.pack("<4i", 0, 0, width - 1, height - 1)
    channels = b"".join(name + b"\0" + struct.pack("<iiii", 1, 0, 1, 1) for name in (b"B", b"G", b"R")) + b"\0"
    aspect = resolution[1] / resolution[0] if resolution else 1.0
    attributes = [
        ("channels", "chlist", channels),
        ("chromaticities", "chromaticities", struct.pack("<8f", *CHROMATICITIES)),
        ("compression", "compression", bytes([ZIP])),
        ("dataWindow", "box2i", box),
        ("displayWindow", "box2i", box),
        ("lineOrder", "lineOrder", b"\0"),
        ("pixelAspectRatio", "float", struct.pack("<f", aspect)),
        ("screenWindowCenter", "v2f", struct.pack("<2f", 0, 0)),
        ("screenWindowWidth", "float", struct.pack("<f", 1)),
    ]
    if resolution:
        attributes.append(("xDensity", "float", struct.pack("<f", resolution[0])))
    attributes += [(name, "string", text.encode()) for name, text in texts.items()]
    head = MAGIC + struct.pack("<I", 2)
    for name, kind, value in attributes:
        head += name.encode() + b"\0" + kind.encode() + b"\0" + struct.pack("<I", len(value)) + value
    head += b"\0"
    half = linear[..., ::-1].astype("<f2")  # channels by their names: B, G, R
    blocks = []
    for top in range(0, height, ROWS):
        rows = np.ascontiguousarray(half[top : top + ROWS].transpose(0, 2, 1)).tobytes()
        blocks.append(struct.pack("<i", top) + _packed(rows))
    offsets, place = [], len(head) + 8 * len(blocks)
    for block in blocks:
        offsets.append(place)
        place += len(block)
    file.write(head + struct.pack(f"<{len(offsets)}Q", *offsets))
    for block in blocks:
        file.write(block)


def _packed(rows: bytes) -> bytes:
    """Length and bytes of a block: low and high bytes apart, as differences, by zlib, if that is shorter."""
    import numpy as np

    values = np.frombuffer(rows, np.uint8)
    apart = np.concatenate([values[::2], values[1::2]]).astype(np.int16)
    apart[1:] = (apart[1:] - apart[:-1] + 384) & 255
    small = zlib.compress(apart.astype(np.uint8).tobytes(), 6)
    data = small if len(small) < len(rows) else rows
    return struct.pack("<I", len(data)) + data
