"""Pictures written as files: 8 or 16 bits, with resolution, profile, capture metadata and workflow."""

from __future__ import annotations

import io
import logging
import struct
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import torch
from torch import Tensor

from . import capture, exr, profiles
from .output import check_suffix, whole
from .photographs import FileFacts
from .png import SIGNATURE
from .tiff_strips import DEFLATE, directory

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Exif, Image

log = logging.getLogger(__name__)

#: Suffix -> the depths that its format holds. EXR's 16 bits are half floats, linear.
DEPTHS: dict[str, tuple[int, ...]] = {
    ".png": (8, 16),
    ".tif": (8, 16),
    ".tiff": (8, 16),
    ".jpg": (8,),
    ".jpeg": (8,),
    ".webp": (8,),
    ".bmp": (8,),
    ".exr": (16,),
}
#: Suffixes that a picture can be written under.
WRITTEN = tuple(DEPTHS)
#: Longest side that a format can hold.
LONGEST = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383}
#: Texts of EXIF that a workflow can stand in, the first free one for the first text: ComfyUI's places come first.
PLACES = (0x0110, 0x010F, 0x010E, 0x010D, 0x011D)


def check_format(path: str | Path, bits: Literal[8, 16] = 8, size: tuple[int, int] = (0, 0)) -> None:
    """Refuse before work what a format cannot hold.

    :param path: a path or a suffix such as ".png".
    :param size: (height, width), where it is known.
    :raises ValueError: an unknown suffix, or a depth or sides that the format does not have.
    """
    name = Path(path).name.lower()
    suffix = name if name in DEPTHS else Path(path).suffix.lower()
    if suffix not in DEPTHS:
        check_suffix(path, WRITTEN)
    if bits not in DEPTHS[suffix]:
        others = ", ".join(other for other, depths in DEPTHS.items() if bits in depths)
        held = DEPTHS[suffix][0]
        raise ValueError(f"{path}: {suffix} holds {held} bits, {bits} are asked for; choose {held} bits, or {others}.")
    most, (height, width) = LONGEST.get(suffix, 2**31), size
    if max(size) > most:
        raise ValueError(
            f"{path}: {suffix} holds sides up to {most} pixels, the picture is {width} x {height}; choose .png or .tif."
        )


def save_picture(
    image: Tensor,
    path: str | Path,
    *,
    bits: Literal[8, 16] = 8,
    quality: int = 95,
    facts: FileFacts | None = None,
    workflow: Mapping[str, str] | None = None,
    new: bool = False,
) -> None:
    """Write the first picture of (B, H, W, 3), sRGB in 0..1; the suffix chooses the format.

    The file gets its name when it is whole. Values are rounded to the nearest level, so that what was read and not
    changed is written as it was.

    :param bits: bits of a sample.
    :param quality: of JPEG, 1 to 100.
    :param facts: what the file said that the picture was made of: resolution and capture metadata are kept.
    :param workflow: texts by their names, as ComfyUI writes them: "prompt", "workflow".
    :param new: never replace a file.
    :raises ValueError: the format cannot hold it, or there are values that are no numbers.
    :raises FileExistsError: with ``new``, there is a file of the name.
    :raises OSError: it cannot be written; an older file is as it was.
    """
    path = Path(path)
    check_format(path, bits)
    suffix = path.suffix.lower()
    picture = image[0].detach().float().cpu()
    if picture.ndim != 3 or picture.shape[-1] != 3:
        raise ValueError(f"found a picture of shape {tuple(picture.shape)}, expected (H, W, 3).")
    if not torch.isfinite(picture).all():
        raise ValueError(f"The picture for {path.name} holds values that are no numbers; the step before made them.")
    check_format(path, bits, (picture.shape[0], picture.shape[1]))
    picture = picture.clamp(0, 1)
    most = 2**bits - 1
    levels = None if suffix == ".exr" else (picture.double() * most if bits == 16 else picture * most).round().numpy()
    texts = dict(workflow or {})
    with whole(path, new=new) as beside, beside.open("wb") as file:
        if levels is None:
            exr.write(file, profiles.decode(picture.numpy()), _resolution(facts), _printable(texts))
        elif suffix in (".tif", ".tiff"):
            _write_tiff(file, levels.astype(f"<u{bits // 8}"), bits, facts, texts)
        elif suffix == ".png":
            _write_png(file, levels.astype(f">u{bits // 8}"), bits, facts, texts)
        else:
            _write_lossy(file, suffix, levels.astype("u1"), quality, facts, texts)


def _resolution(facts: FileFacts | None) -> tuple[float, float] | None:
    return facts.resolution if facts is not None else None


def _printable(texts: Mapping[str, str]) -> dict[str, str]:
    """The texts whose names an EXR attribute can have."""
    return {name[:31]: text for name, text in texts.items() if name.isascii() and name.isprintable()}


@cache
def srgb_profile() -> bytes:
    """sRGB as an ICC profile, the same bytes at any time."""
    from PIL import ImageCms

    made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return made[:24] + struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + made[36:]  # littleCMS puts the time there


def _exif(facts: FileFacts | None, texts: Mapping[str, str], *, resolution: bool) -> Exif:
    """Capture metadata of the file that a picture was made of, and texts in places that are free."""
    from PIL import Image

    exif = Image.Exif()
    if facts is not None and facts.exif:
        exif.load(capture.HEAD + facts.exif)
    if resolution and (found := _resolution(facts)):
        exif[282], exif[283], exif[296] = found[0], found[1], 2
    free = (place for place in PLACES if place not in exif)
    for (name, text), place in zip(texts.items(), free, strict=False):
        exif[place] = f"{name}:{text}"
    return exif


def _write_lossy(
    file: BinaryIO,
    suffix: str,
    levels: NDArray[Any],
    quality: int,
    facts: FileFacts | None,
    texts: Mapping[str, str],
) -> None:
    """JPEG with all its color samples, WebP without loss, BMP."""
    from PIL import Image

    image = Image.fromarray(levels)
    options: dict[str, Any] = {"icc_profile": srgb_profile()}
    if found := _resolution(facts):
        options["dpi"] = found
    if suffix == ".bmp":
        _write_image(file, image, "BMP", **options)
        return
    exif = _exif(facts, texts, resolution=True).tobytes() if texts or facts else b""
    if suffix == ".webp":
        _write_image(file, image, "WEBP", lossless=True, exif=exif, **options)
        return
    if len(exif) > 65533 and texts:
        log.warning("The workflow does not fit into a JPEG file (64 kB of metadata) and is left out.")
        exif = _exif(facts, {}, resolution=True).tobytes()
    if len(exif) > 65533:
        log.warning("The capture metadata does not fit into a JPEG file (64 kB) and is left out.")
        exif = b""
    _write_image(file, image, "JPEG", quality=quality, subsampling=0, exif=exif, **options)


def save_image(image: Image, path: str | Path, **options: Any) -> None:
    """Write a picture of Pillow's as a file, such as a chart or a sheet; the suffix chooses the format.

    :param options: of Pillow's format.
    :raises OSError: it cannot be written; an older file is as it was.
    """
    from PIL import Image

    with whole(path) as beside, beside.open("wb") as file:
        _write_image(file, image, Image.registered_extensions()[beside.suffix.lower()], **options)


def _write_image(file: BinaryIO, image: Image, kind: str, **options: Any) -> None:
    """Through memory: Pillow does not notice where a full disk takes only a part of what it writes itself."""
    made = io.BytesIO()
    image.save(made, kind, **options)
    file.write(made.getbuffer())


def _write_png(
    file: BinaryIO, levels: NDArray[Any], bits: int, facts: FileFacts | None, texts: Mapping[str, str]
) -> None:
    """PNG; with 16 bits Pillow, which has none in color, writes all but header and pixels."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    options: dict[str, Any] = {"icc_profile": srgb_profile(), "pnginfo": info}
    if found := _resolution(facts):
        options["dpi"] = found
    if facts is not None and facts.exif:
        options["exif"] = _exif(facts, {}, resolution=False)
    if bits == 8:
        _write_image(file, Image.fromarray(levels), "PNG", **options)
        return
    small = io.BytesIO()
    Image.new("RGB", (1, 1)).save(small, "PNG", **options)
    data, place = small.getvalue(), len(SIGNATURE)
    file.write(SIGNATURE)
    while place < len(data):
        length, name = struct.unpack(">I4s", data[place : place + 8])
        chunk = data[place : place + 12 + length]
        if name == b"IHDR":
            height, width, _ = levels.shape
            chunk = _chunk(name, struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
        if name == b"IDAT":
            _write_pixels(file, levels)
        else:
            file.write(chunk)
        place += 12 + length


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _write_pixels(file: BinaryIO, levels: NDArray[Any]) -> None:
    """(H, W, 3) big-endian 16-bit samples as PNG's compressed rows, each byte less Paeth's prediction."""
    import numpy as np

    packer, before = zlib.compressobj(6), np.zeros((1, levels.shape[1] * 6), np.int16)
    step = max(1, (1 << 20) // before.size)
    for top in range(0, len(levels), step):
        part = np.ascontiguousarray(levels[top : top + step])
        rows = part.view(np.uint8).reshape(len(part), -1).astype(np.int16)
        above = np.concatenate([before, rows[:-1]])
        left, corner = (np.pad(each, ((0, 0), (6, 0)))[:, :-6] for each in (rows, above))
        to_left, to_above = np.abs(above - corner), np.abs(left - corner)
        to_corner = np.abs(left + above - 2 * corner)
        nearest = np.where(to_above <= to_corner, above, corner)
        nearest = np.where((to_left <= to_above) & (to_left <= to_corner), left, nearest)
        filtered = np.empty((len(rows), rows.shape[1] + 1), np.uint8)
        filtered[:, 0], filtered[:, 1:] = 4, (rows - nearest) & 255
        before = rows[-1:]
        if data := packer.compress(filtered.tobytes()):
            file.write(_chunk(b"IDAT", data))
    file.write(_chunk(b"IDAT", packer.flush()))


def _write_tiff(
    file: BinaryIO, levels: NDArray[Any], bits: int, facts: FileFacts | None, texts: Mapping[str, str]
) -> None:
    """TIFF in strips, as differences, by zlib: Pillow, which has no 16 bits in color, writes capture metadata only."""
    import numpy as np
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    height, width, _ = levels.shape
    step = max(1, (1 << 18) // (width * 3 * bits // 8))
    offsets, counts, place = [], [], 8
    file.write(b"II*\0\0\0\0\0")
    for top in range(0, height, step):
        rows = levels[top : top + step].copy()
        rows[:, 1:] -= levels[top : top + step, :-1]
        data = zlib.compress(np.ascontiguousarray(rows).tobytes(), 6)
        data += b"\0" * (len(data) % 2)
        file.write(data)
        offsets.append(place)
        counts.append(len(data))
        place += len(data)
    if place > 2**32 - 2**26:
        raise ValueError("The picture is too large for TIFF, which holds 4 GB; choose .png.")
    exif, tags = _exif(facts, texts, resolution=False), {}
    for tag, value in exif.items():
        if isinstance(value, int):
            tags[tag] = (4, value)
        else:
            tags[tag] = (2, str(value).encode() + b"\0") if isinstance(value, str) else (1, bytes(value))
    for pointer in (capture.EXIF, capture.GPS):
        if found := exif.get_ifd(pointer):
            block = ImageFileDirectory_v2(prefix=b"II", group=pointer)
            for tag, value in found.items():
                block[tag] = value
            data = block.tobytes(place)
            data += b"\0" * (len(data) % 2)
            file.write(data)
            tags[pointer], place = (4, place), place + len(data)
    x, y = _resolution(facts) or (1.0, 1.0)
    tags |= {256: (4, width), 257: (4, height), 258: (3, (bits,) * 3), 259: (3, DEFLATE), 262: (3, 2), 277: (3, 3)}
    tags |= {273: (4, tuple(offsets)), 278: (4, step), 279: (4, tuple(counts)), 284: (3, 1), 317: (3, 2)}
    tags |= {282: (5, x), 283: (5, y), 296: (3, 2 if _resolution(facts) else 1), 339: (3, (1, 1, 1))}
    tags |= {34675: (7, srgb_profile())}
    file.write(directory(tags, place))
    file.seek(4)
    file.write(struct.pack("<I", place))
