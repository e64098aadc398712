"""Picture files, in and out: the door to :mod:`.tiff`, :mod:`.raster_formats`, :mod:`.deep` and :mod:`.saving`.

Every picture comes as sRGB, upright, at the depth of its file; what cannot be read rightly is refused by name.
"""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from .photographs import FileFacts, Photograph
from .raster import Decoded, finish
from .room import check_room
from .saving import WRITTEN, check_format, save_picture

log = logging.getLogger(__name__)

__all__ = [
    "READ",
    "WRITTEN",
    "FileFacts",
    "Photograph",
    "check_format",
    "load_picture",
    "picture_size",
    "read_photograph",
    "save_picture",
]

#: Suffixes of the files that are read. What is inside counts, not the suffix: these choose among the files of a folder.
READ = (
    *(".png", ".apng", ".tif", ".tiff", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".dib"),
    *(".jp2", ".j2k", ".jpx", ".jpf", ".avif", ".tga", ".qoi", ".pbm", ".pgm", ".ppm", ".pnm", ".exr", ".hdr"),
)
#: What decoders raise at damaged files, of every kind of damage.
DAMAGED = (
    *(ValueError, OSError, EOFError, SyntaxError, LookupError, ArithmeticError, RuntimeError),
    *(TypeError, AttributeError, AssertionError, struct.error, zlib.error),
)
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
HDR = (b"#?RADIANCE", b"#?RGBE")


def read_photograph(path: str | Path, *, pages: Literal["first", "all"] = "first") -> Photograph:
    """The pages of a picture file, and what it said.

    :param pages: the first page, or all, which must be of one size.
    :raises ValueError: not a readable picture, with the reason.
    :raises FileNotFoundError: no such file.
    """
    path = Path(path)
    images, alphas, name = [], [], None
    with reading(path):
        decoded = decode(path, pages)
        gray, notes = decoded.rasters[0].model == "gray", list(decoded.notes)
        while decoded.rasters:  # each is dropped when it is done
            image, alpha, name, said = finish(decoded.rasters.pop(0))
            images.append(torch.from_numpy(image))
            alphas.append(alpha)
            notes += said
    sizes = {tuple(image.shape[:2]) for image in images}
    if len(sizes) > 1:
        said = ", ".join(f"{width} x {height}" for height, width in sorted(sizes))
        raise ValueError(f"{path} has pages of different sizes ({said}); read the first alone, or save them apart.")
    if pages == "first" and decoded.pages > 1:
        notes.insert(0, f"{decoded.pages} pages, the first is read")
    transparency = None
    if any(alpha is not None for alpha in alphas):
        transparency = torch.stack(
            [
                torch.ones(image.shape[:2]) if a is None else torch.from_numpy(a)
                for image, a in zip(images, alphas, strict=True)
            ]
        )
    facts = FileFacts(
        decoded.format,
        decoded.bits,
        gray,
        decoded.floating,
        name,
        decoded.resolution,
        decoded.exif,
        decoded.pages,
        tuple(dict.fromkeys(notes)),
    )
    return Photograph(images[0][None] if len(images) == 1 else torch.stack(images), transparency, facts)


def load_picture(path: str | Path) -> Tensor:
    """(1, H, W, 3) sRGB in 0..1, upright; transparency is laid on white. What a user should know is logged.

    :raises ValueError: not a readable picture.
    :raises FileNotFoundError: no such file.
    """
    photograph = read_photograph(path)
    for note in photograph.facts.notes:
        log.warning("%s: %s", path, note)
    if photograph.alpha is None:
        return photograph.images
    from ..color import drop_alpha

    return drop_alpha(torch.cat([photograph.images, photograph.alpha[..., None]], -1))


def picture_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of a picture file's first page, turned upright, and whether memory suffices for it.

    Pixels are read only where the header is not enough.

    :raises ValueError: not a readable picture, or one that is too large.
    :raises FileNotFoundError: no such file.
    """
    path = Path(path)
    try:
        height, width = _size_in_header(path)
    except DAMAGED:
        height, width = read_photograph(path).images.shape[1:3]  # it knows more formats, or says what is wrong
    with reading(path):
        check_room(width, height)
    return height, width


def _size_in_header(path: Path) -> tuple[int, int]:
    from . import raster_formats, tiff

    with path.open("rb") as file:
        head = file.read(16)
        if head.startswith(TIFF):
            return tiff.size(file)
        return raster_formats.size(file, path.suffix.lower())


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Whatever fails while a picture is read is said in one line that names the file.

    :raises ValueError: not a readable picture.
    :raises FileNotFoundError: no such file.
    """
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(
            f"There is no picture {path}; look at the path, or reinstall the pack if it is one of its own."
        ) from None
    except MemoryError as error:
        raise ValueError(f"{path} is too large for the memory that is free; make it smaller.") from error
    except DAMAGED as error:
        said = " ".join(str(error).split())[:300] if isinstance(error, (ValueError, OSError, RuntimeError)) else ""
        said = said or "it is damaged, cut off, or something else"  # what others say is for programmers
        raise ValueError(f"{path} is not a picture that can be read ({said}).") from error


def decode(path: Path, pages: Literal["first", "all"]) -> Decoded:
    """The pages of a file by the decoder that its first bytes call for.

    :raises ValueError: what cannot be read, by name.
    :raises FileNotFoundError: no such file.
    """
    from . import deep, exr, netpbm, raster_formats, tiff

    if path.is_dir():
        raise ValueError("it is a folder; name a file in it")
    with path.open("rb") as file:
        head = file.read(16)
        if not head:
            raise ValueError("the file is empty")
        if head.startswith(TIFF):
            if head[8:10] == b"CR":
                raise ValueError("camera raw: develop it to a picture first")
            return tiff.decode(file, pages)
        file.seek(0)
        data = file.read()
    if head.startswith(exr.MAGIC):
        return deep.decode_exr(data)
    if head.startswith(HDR):
        return deep.decode_hdr(data)
    if netpbm.KINDS.match(head):
        return netpbm.decode(data)
    return raster_formats.decode(data, pages, path.suffix.lower())
