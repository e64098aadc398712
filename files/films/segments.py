"""A shot's packets in a file of their own, until the film is put together.

No container: these round times, and some put dates or random numbers into a file. A segment is a mark, the encoder's
extradata, then for each packet its time, duration, flag and bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .encoding import Packet

SUFFIX = ".segment"
_MARK = b"EXEMPLAR SEGMENT 1\n"
_HEAD = struct.Struct("<I")
_PACKET = struct.Struct("<qqBI")


class SegmentWriter:
    """Packets into an open file."""

    def __init__(self, file: BinaryIO, extradata: bytes) -> None:
        self._file = file
        file.write(_MARK + _HEAD.pack(len(extradata)) + extradata)

    def write(self, packet: Packet) -> None:
        """Write the next one, in the order in which they are decoded."""
        self._file.write(_PACKET.pack(packet.pts, packet.duration, packet.key, len(packet.data)))
        self._file.write(packet.data)


def read_extradata(path: Path) -> bytes:
    """What the encoder of a segment left for the container.

    :raises ValueError: it is no segment.
    """
    with path.open("rb") as file:
        return _begin(file, path)


def read_packets(path: Path) -> Iterator[Packet]:
    """A segment's packets, in the order in which they are decoded.

    :raises ValueError: it is no segment, or is cut off.
    """
    with path.open("rb") as file:
        _begin(file, path)
        while head := file.read(_PACKET.size):
            if len(head) < _PACKET.size:
                raise ValueError(f"{path} is cut off; remove it and run again.")
            pts, duration, key, size = _PACKET.unpack(head)
            data = file.read(size)
            if len(data) < size:
                raise ValueError(f"{path} is cut off; remove it and run again.")
            yield Packet(pts, duration, bool(key), data)


def read_times(path: Path) -> list[int]:
    """When the frames of a segment's packets are shown, in the order in which they are decoded."""
    times = []
    with path.open("rb") as file:
        _begin(file, path)
        while head := file.read(_PACKET.size):
            pts, _, _, size = _PACKET.unpack(head)
            times.append(pts)
            file.seek(size, 1)
    return times


def _begin(file: BinaryIO, path: Path) -> bytes:
    if file.read(len(_MARK)) != _MARK:
        raise ValueError(f"{path} is no segment of a film; remove it and run again.")
    return file.read(*_HEAD.unpack(file.read(_HEAD.size)))
