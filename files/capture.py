"""Capture metadata (EXIF) and resolution: what is taken over from a file to a result made of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .tiff_tags import RATIONALS, TEXT, Directory, Tags

if TYPE_CHECKING:
    from PIL.Image import Exif

EXIF, GPS = 34665, 34853
ORIENTATION = 274
#: Orientations that exchange a picture's sides.
LYING = (5, 6, 7, 8)
#: Of the main block: description, camera, program, date, artist, computer, copyright, rating, Windows' texts.
MAIN = (270, 271, 272, 305, 306, 315, 316, 18246, 33432, 40091, 40092, 40093, 40094, 40095)
#: Of the EXIF block these do not hold for a result: color space, sizes, the block of interoperability; and makers'
#: notes, whose inner addresses break when they are moved.
STALE = (0xA001, 0xA002, 0xA003, 0xA005, 0x927C)
COLOR_SPACE, INTEROP = 0xA001, 0xA005
#: Texts that ComfyUI puts into places of capture metadata.
WORKFLOWS = ("prompt:", "workflow:")
HEAD = b"Exif\0\0"


def cleaned(exif: Exif) -> bytes | None:
    """What is worth keeping of EXIF metadata, as a block that begins with its TIFF header."""
    return _packed(dict(exif), exif.get_ifd(EXIF), exif.get_ifd(GPS))


def of_tiff(tags: Tags, page: Directory) -> bytes | None:
    """What is worth keeping of a TIFF page's metadata; none where it cannot be read."""
    blocks: dict[int, dict[int, Any]] = {EXIF: {}, GPS: {}}
    for pointer in blocks:
        for offset in page.numbers(pointer)[:1]:
            try:
                block = tags.directory(offset)
            except ValueError:
                continue
            blocks[pointer] = {tag: _value(block, tag) for tag in block}
    try:
        return _packed({tag: _value(page, tag) for tag in MAIN if tag in page}, blocks[EXIF], blocks[GPS])
    except (ValueError, TypeError, KeyError, OSError):
        return None


def _packed(main: dict[int, Any], inner: dict[int, Any], position: dict[int, Any]) -> bytes | None:
    """The three blocks of EXIF metadata without what is stale, as bytes; none where nothing is left."""
    from PIL import Image

    kept: Any = Image.Exif()
    for tag in MAIN:
        if tag in main and not str(main[tag]).startswith(WORKFLOWS):
            kept[tag] = main[tag]
    inner = {tag: value for tag, value in inner.items() if tag not in STALE}
    if not (dict(kept) or inner or position):
        return None
    kept[EXIF] = {**inner, COLOR_SPACE: 1}
    if position:
        kept[GPS] = dict(position)
    return kept.tobytes()[len(HEAD) :]


def _value(page: Directory, tag: int) -> Any:
    """A tag's value as Pillow keeps it."""
    from PIL.TiffImagePlugin import IFDRational

    entry = page[tag]
    if isinstance(entry.values, bytes):
        return entry.values.split(b"\0")[0].decode("latin-1") if entry.kind == TEXT else entry.values
    values = entry.values
    if entry.kind == 1 and tag >= 40091:  # Windows' texts
        return bytes(values)
    if entry.kind in RATIONALS:
        values = tuple(IFDRational(a, b) for a, b in zip(values[::2], values[1::2], strict=True))
    return values[0] if len(values) == 1 else values


def resolution(x: float, y: float, unit: int, orientation: int = 1) -> tuple[float, float] | None:
    """Dots per inch of the upright picture; none where there is no unit, or no sense.

    :param unit: TIFF's and EXIF's number: 2 inches, 3 centimeters.
    """
    factor = {2: 1.0, 3: 2.54}.get(unit)
    if factor is None or not (math.isfinite(x) and math.isfinite(y)) or min(x, y) <= 1:
        return None
    x, y = round(x * factor, 2), round(y * factor, 2)
    return (y, x) if orientation in LYING else (x, y)
