"""The tags of a TIFF file: one dictionary for each page, classic or BigTIFF, either byte order.

Pillow's own reader of tags stops at big-endian BigTIFF, and its opener at every page whose layout it has no mode for.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO, Literal

#: Type -> (letter of :mod:`struct`, bytes).
KINDS = {
    1: ("B", 1),
    2: ("c", 1),
    3: ("H", 2),
    4: ("I", 4),
    5: ("II", 8),
    6: ("b", 1),
    7: ("c", 1),
    8: ("h", 2),
    9: ("i", 4),
    10: ("ii", 8),
    11: ("f", 4),
    12: ("d", 8),
    13: ("I", 4),
    16: ("Q", 8),
    17: ("q", 8),
    18: ("Q", 8),
}
TEXT, BYTES, RATIONALS = 2, (2, 7), (5, 10)

SUBFILE, OLD_SUBFILE, SUB_IFDS = 254, 255, 330
REDUCED, MASK = 1, 4
MOST_PAGES = 100_000


@dataclass(frozen=True)
class Entry:
    """One tag: its type's number and its values; texts and undefined bytes are one bytes object."""

    kind: int
    values: tuple | bytes


class Directory(dict[int, Entry]):
    """The tags of one page by their numbers."""

    def numbers(self, tag: int, default: tuple = ()) -> tuple:
        """A tag's values; rationals are floats."""
        entry = self.get(tag)
        if entry is None or isinstance(entry.values, bytes):
            return default
        if entry.kind in RATIONALS:
            return tuple(a / b if b else 0.0 for a, b in zip(entry.values[::2], entry.values[1::2], strict=True))
        return entry.values

    def number(self, tag: int, default: int) -> int:
        """The first value of a tag, as a whole number."""
        values = self.numbers(tag)
        return int(values[0]) if values else default

    def data(self, tag: int) -> bytes | None:
        """A tag's values as bytes: profiles and tables."""
        entry = self.get(tag)
        if entry is None:
            return None
        return entry.values if isinstance(entry.values, bytes) else bytes(v & 255 for v in entry.values)


class Tags:
    """The directories of a TIFF file.

    :param file: an open file that can be moved about in.
    :raises ValueError: not a TIFF file, or its tags end before they should.
    """

    def __init__(self, file: BinaryIO):
        self.file = file
        head = self._read(0, 8)
        if head[:2] not in (b"II", b"MM"):
            raise ValueError("no TIFF header")
        self.order: Literal["<", ">"] = "<" if head[:2] == b"II" else ">"
        version = self._unpack("H", head[2:4])[0]
        if version not in (42, 43):
            raise ValueError(f"TIFF version {version}, expected 42 or 43")
        self.big = version == 43
        first = self._unpack("Q", self._read(8, 8))[0] if self.big else self._unpack("I", head[4:])[0]
        self.pages = self._chain(first)

    def directory(self, offset: int) -> Directory:
        """The tags at an offset: of a page, or of the EXIF or GPS block that a page names."""
        return self._directory(offset)[0]

    def _chain(self, offset: int) -> list[Directory]:
        pages, seen = [], set()
        while offset and offset not in seen and len(pages) < MOST_PAGES:
            seen.add(offset)
            page, offset = self._directory(offset)
            pages.append(page)
        return pages

    def _directory(self, offset: int) -> tuple[Directory, int]:
        """The tags at an offset, and where the next page's are."""
        counted, width, inline = ("Q", 20, 8) if self.big else ("H", 12, 4)
        (count,) = self._unpack(counted, self._read(offset, struct.calcsize("=" + counted)))
        start = offset + struct.calcsize("=" + counted)
        block = self._read(start, count * width)
        found = Directory()
        for i in range(count):
            entry = block[i * width : (i + 1) * width]
            tag, kind = self._unpack("HH", entry[:4])
            (length,) = self._unpack("Q" if self.big else "I", entry[4:-inline])
            if kind not in KINDS or tag in found:
                continue
            letter, size = KINDS[kind]
            data = entry[-inline:]
            if length * size > inline:
                data = self._read(self._unpack("Q" if self.big else "I", data)[0], length * size)
            data = data[: length * size]
            found[tag] = Entry(kind, data if kind in BYTES else self._unpack(letter * length, data))
        after = self._read(start + count * width, inline, must=False)
        return found, self._unpack("Q" if self.big else "I", after)[0] if len(after) == inline else 0

    def _read(self, offset: int, count: int, *, must: bool = True) -> bytes:
        self.file.seek(0, 2)
        if must and offset + count > self.file.tell():
            raise ValueError("the file is truncated: its tags point beyond its end")
        self.file.seek(offset)
        return self.file.read(count)

    def _unpack(self, letters: str, data: bytes) -> tuple:
        if len(set(letters)) == 1:  # long lists of offsets
            letters = f"{len(letters)}{letters[0]}"
        return struct.unpack(self.order + letters, data)


def full_pages(tags: Tags) -> list[Directory]:
    """The pages that are pictures of their own: no thumbnails, no masks of others."""

    def extra(page: Directory) -> bool:
        return bool(page.number(SUBFILE, 0) & (REDUCED | MASK)) or page.number(OLD_SUBFILE, 0) == 2

    full = [page for page in tags.pages if not extra(page)]
    if full:
        return full
    # Cameras put a thumbnail first and the picture below it.
    below = [tags.directory(offset) for page in tags.pages for offset in page.numbers(SUB_IFDS)]
    full = [page for page in below if not extra(page)]
    return full or tags.pages[:1]
