"""PNG, JPEG, WebP, GIF, BMP, JPEG 2000, AVIF and TGA as rasters, by Pillow."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from . import capture, deep, png, profiles
from .raster import Decoded, Raster, real_numbers, whole_numbers
from .room import check_room

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

#: Pillow's formats that are read. The rest is vectors, or samples that Pillow alters: HEIF only where a plugin has it.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "JPEG2000", "AVIF", "TGA", "QOI", "HEIF")
TGA = (".tga", ".icb", ".vda", ".vst")
EXIF_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "HEIF")
#: Their loaders look for further parts at the end.
LOOKING_ON = ("PNG", "JPEG2000")
CUT = "the file is truncated: it ends within its pixels"


class Whole(io.BytesIO):
    """A file in memory that refuses to be read on beyond its end while pixels are unpacked.

    Pillow itself refuses that, unless somebody in the process has told it not to.
    """

    unpacking = False

    def read(self, size: int | None = -1, /) -> bytes:
        """What follows.

        :raises ValueError: nothing does.
        """
        found = super().read(size)
        if self.unpacking and not found and size != 0:
            raise ValueError(CUT)
        return found


def decode(data: bytes, pages: Literal["first", "all"], suffix: str = "") -> Decoded:
    """The pages of a picture file.

    :param suffix: of its name; TGA files have no sign at their beginning.
    :raises ValueError: what cannot be read, by name.
    """
    if data.startswith(b"\xff\xd8") and deep.jpeg_bits(data) != 8:
        return deep.decode_jpeg(data)
    if deep.is_jpeg2000(data) and deep.needs_more_than_pillow(data):
        return deep.decode_jpeg2000(data)
    file = Whole(data)
    with _opened(file, suffix) as image:
        kind = image.format or ""
        header = png.read_header(data) if kind == "PNG" else None
        if header is not None:
            check_room(header.width, header.height)
            png.check_pixels(data, header)
        numbers = _pages(image)
        wanted = numbers if pages == "all" else numbers[:1]
        check_room(image.width, image.height, len(wanted))
        notes: list[str] = []
        colors = _colors(image, data, header)
        exif, orientation = _metadata(image, notes)
        if colors == profiles.Colors() and exif is not None:
            colors = _by_exif(exif)
        rasters = []
        for number in wanted:
            if number:
                _seek(image, number)
            raster = _raster(file, image, header if len(numbers) == 1 else None, notes)
            if kind == "JPEG2000":
                raster.samples = deep.filled_up(raster.samples, data)
            raster.colors, raster.orientation = colors, orientation
            rasters.append(raster)
        stored = _resolution(image, header, exif)
        return Decoded(
            rasters,
            {"MPO": "JPEG", "DIB": "BMP", "JPEG2000": "JPEG 2000"}.get(kind, kind),
            _bits(image, data, header, notes),
            resolution=(stored[1], stored[0]) if stored and orientation in capture.LYING else stored,
            exif=_kept(exif, notes),
            pages=len(numbers),
            notes=list(dict.fromkeys(notes)),
        )


def size(file: BinaryIO, suffix: str = "") -> tuple[int, int]:
    """(height, width) of a picture, turned upright, from its header alone.

    :param suffix: see :func:`decode`.
    :raises ValueError: Pillow does not take it.
    """
    from PIL.Image import Exif

    with _opened(file, suffix) as image:
        if image.format != "PNG":
            turn = _metadata(image, [])[1]
        else:
            exif = Exif()  # PNG's own would read all pixels, in case that it stands behind them
            exif.load(image.info.get("exif", b""))
            turn = exif.get(capture.ORIENTATION)
        return image.size if turn in capture.LYING else image.size[::-1]


def _opened(file: BinaryIO, suffix: str) -> ImageFile:
    """Pillow's picture, without its check of sizes: a user named this file, and :mod:`.room` looks at memory."""
    from PIL import Image

    Image.init()
    file.seek(0)
    prefix = file.read(16)
    for name in FORMATS:
        if name not in Image.OPEN:
            continue
        factory: Any
        factory, accept = Image.OPEN[name]
        accepted = accept(prefix) if accept else suffix in TGA
        if not accepted or isinstance(accepted, str):  # a text says what Pillow lacks
            continue
        file.seek(0)
        try:
            return factory(file, "")
        except (SyntaxError, IndexError, TypeError, KeyError, struct.error, OSError, EOFError) as error:
            raise ValueError(f"a damaged or unknown kind of {name}: {error}") from error
        except Image.DecompressionBombError as error:  # WebP looks by itself
            raise ValueError(f"more pixels than Pillow takes from {name}; save it as PNG or TIFF") from error
    raise ValueError(unknown(prefix))


def unknown(prefix: bytes) -> str:
    """What a file is that no decoder takes."""
    if prefix[4:8] == b"ftyp":
        if prefix[8:12] in (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"hevc"):
            return "HEIC, which Pillow does not read; save it as JPEG, PNG or TIFF"
        return "a film, or AVIF that this Pillow does not read; save it as PNG or TIFF"
    known = {
        b"%PDF": "PDF: export its pages as PNG or TIFF",
        b"%!PS": "PostScript: export it as PNG or TIFF",
        b"8BPS": "a Photoshop document: save it as TIFF without layers",
        b"\0\0\0\x0cJXL ": "JPEG XL, which Pillow does not read; save it as PNG or TIFF",
        b"\xff\x0a": "JPEG XL, which Pillow does not read; save it as PNG or TIFF",
        b"<svg": "SVG: export it as PNG",
        b"<?xml": "XML or SVG: export it as PNG",
        b"FUJIFILM": "camera raw: develop it to a picture first",
        b"SIMPLE  =": "FITS: export it as 16-bit TIFF",
    }
    for sign, said in known.items():
        if prefix.startswith(sign):
            return said
    return "no format that is known: PNG, TIFF, JPEG, WebP, GIF, BMP, JPEG 2000, AVIF, PPM, EXR and HDR are read"


def _pages(image: ImageFile) -> list[int]:
    """The numbers of the pages or frames; what a camera appends in another size, preview or gain map, is none."""
    from PIL import Image

    try:
        count = int(getattr(image, "n_frames", 1))
        if image.format != "MPO":
            return list(range(count))
        if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
            return [0]  # Pillow would refuse to come back from the others
        found, size = [0], image.size
        for number in range(1, count):
            image.seek(number)
            if image.size == size:
                found.append(number)
        image.seek(0)
        return found
    except (OSError, EOFError, SyntaxError, ValueError) as error:
        raise ValueError(f"its frames cannot be counted: {error}") from error


def _seek(image: ImageFile, number: int) -> None:
    """Go to a page.

    :raises ValueError: Pillow refuses its size.
    """
    from PIL import Image

    try:
        image.seek(number)
    except Image.DecompressionBombError as error:
        raise ValueError(f"frames of more pixels than Pillow takes from {image.format}") from error


def _raster(file: Whole, image: ImageFile, header: png.Header | None, notes: list[str]) -> Raster:
    """The page that Pillow stands at."""
    import numpy as np
    from PIL import Image

    if header is not None and header.bits == 16:
        samples, alpha = png.sixteen_bits(file.getvalue(), header)
        if key := png.transparent_color(header):
            alpha = (samples != np.array(key)).any(-1) * 65535
        scaled = None if alpha is None else whole_numbers(alpha, 16)
        return Raster(whole_numbers(samples, 16), "gray" if samples.shape[2] == 1 else "rgb", scaled)
    file.unpacking = image.format not in LOOKING_ON
    try:
        image.load()
    except Image.DecompressionBombError as error:
        raise ValueError(f"frames of more pixels than Pillow takes from {image.format}") from error
    except (OSError, SyntaxError, IndexError, EOFError, struct.error) as error:
        raise ValueError(str(error) or CUT) from error
    finally:
        file.unpacking = False
    raster = _of_mode(image, notes)
    if header is not None and (key := png.transparent_color(header)):
        most = 2**header.bits - 1
        raster.alpha = (raster.samples != np.array([v * 255 // most for v in key])).any(-1).astype(np.float32)
    return raster


def _of_mode(image: Image, notes: list[str]) -> Raster:
    """Pillow's modes; those of palettes become RGB."""
    import numpy as np

    mode = image.mode
    if mode in ("P", "PA"):
        transparent = mode == "PA" or "transparency" in image.info or image.im.getpalettemode() == "RGBA"
        image = image.convert("RGBA" if transparent else "RGB")
    elif mode in ("YCbCr", "RGBX"):
        image = image.convert("RGB")
    elif mode == "1":
        image = image.convert("L")
    array = np.asarray(image)
    if image.mode in ("L", "RGB", "CMYK"):
        return Raster(array.reshape(*array.shape[:2], -1), {"L": "gray", "RGB": "rgb", "CMYK": "cmyk"}[image.mode])
    if image.mode in ("LA", "La", "RGBA", "RGBa"):
        alpha = array[..., -1].astype(np.float32) / 255
        model = "gray" if image.mode[0] == "L" else "rgb"
        return Raster(array[..., :-1], model, alpha, premultiplied=image.mode[-1] == "a")
    if image.mode.startswith("I;16"):
        return Raster(whole_numbers(array.astype(np.uint16)[..., None], 16), "gray")
    if image.mode == "F":
        return Raster(real_numbers(array[..., None], notes), "gray")
    raise ValueError(f"samples of Pillow's mode {image.mode}")


def _colors(image: ImageFile, data: bytes, header: png.Header | None) -> profiles.Colors:
    icc = image.info.get("icc_profile")
    if header is not None:
        return png.colors(header, icc)
    if icc:
        return profiles.Colors(icc)
    if image.format == "JPEG2000":
        return deep.jpeg2000_colors(data)
    if image.format == "AVIF" and (place := data.find(b"colrnclx", 0, 65536)) > 0:
        return png.coded(*struct.unpack(">HH", data[place + 8 : place + 12]))
    if image.format in ("BMP", "DIB"):
        return _bitmap_colors(data)
    return profiles.Colors()


def _bitmap_colors(data: bytes) -> profiles.Colors:
    """A bitmap's fifth header may hold a profile."""
    size = struct.unpack("<I", data[14:18])[0]
    if size < 124 or data[70:74][::-1] != b"MBED":
        return profiles.Colors()
    place, length = struct.unpack("<II", data[14 + 112 : 14 + 120])
    return profiles.Colors(data[14 + place : 14 + place + length] or None)


def _metadata(image: ImageFile, notes: list[str]) -> tuple[Any, int]:
    """EXIF metadata and orientation; broken metadata is as good as none."""
    if image.format not in EXIF_FORMATS:
        return None, 1
    try:
        exif = image.getexif()
        found = exif.get(capture.ORIENTATION, 1)
    except (SyntaxError, ValueError, TypeError, KeyError, IndexError, OSError, struct.error) as error:
        notes.append(f"its capture metadata cannot be read ({error})")
        return None, 1
    if found not in range(1, 9):
        notes.append(f"its orientation, {found}, is none: it was not turned")
        found = 1
    return exif, int(found)


def _kept(exif: Any, notes: list[str]) -> bytes | None:
    try:
        return None if exif is None else capture.cleaned(exif)
    except (SyntaxError, ValueError, TypeError, KeyError, IndexError, OSError, AttributeError, struct.error) as error:
        notes.append(f"its capture metadata cannot be kept ({error})")
        return None


def _by_exif(exif: Any) -> profiles.Colors:
    """Cameras say Adobe RGB by EXIF alone: color space 2, or "uncalibrated" and interoperability R03."""
    try:
        block = exif.get_ifd(capture.EXIF)
        space = block.get(capture.COLOR_SPACE)
        rule = str(exif.get_ifd(capture.INTEROP).get(1, "")) if capture.INTEROP in block else ""
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, struct.error):
        return profiles.Colors()
    if space == 2 or (space == 65535 and rule.startswith("R03")):
        return profiles.Colors(space=profiles.adobe_rgb())
    if space == 65535:
        return profiles.Colors(note="it says that its colors are not sRGB, but not what they are: taken as sRGB")
    return profiles.Colors()


def _resolution(image: ImageFile, header: png.Header | None, exif: Any) -> tuple[float, float] | None:
    """As stored, before turning."""
    if header is not None and header.resolution:
        return header.resolution
    found = None
    if image.format in ("JPEG", "MPO"):
        if image.info.get("jfif_unit") in (1, 2):
            x, y = image.info["jfif_density"]
            found = capture.resolution(x, y, image.info["jfif_unit"] + 1)
    elif image.format in ("BMP", "DIB", "JPEG2000") and "dpi" in image.info:
        found = capture.resolution(*map(float, image.info["dpi"]), unit=2)
    if found is None and exif is not None and 282 in exif and 283 in exif:
        try:
            found = capture.resolution(float(exif[282]), float(exif[283]), exif.get(296, 2))
        except (TypeError, ValueError, ZeroDivisionError):
            found = None
    return found


def _bits(image: ImageFile, data: bytes, header: png.Header | None, notes: list[str]) -> int:
    """Bits of a stored sample."""
    if header is not None:
        if header.bits == 16 and getattr(image, "n_frames", 1) > 1:
            notes.append("an animation of 16 bits: 8 of them are read")
        return header.bits if header.kind != png.PALETTE else 8
    if image.format == "AVIF" and (place := data.find(b"pixi", 0, 65536)) > 0 and data[place + 8 : place + 9]:
        bits = max(data[place + 9 : place + 9 + data[place + 8]] or b"\x08")
        if bits > 8:
            notes.append(f"{bits} bits of a sample, of which Pillow reads 8")
        return bits
    if image.format == "JPEG2000":
        return deep.jpeg2000_bits(data)
    return 16 if image.mode.startswith("I;16") else 1 if image.mode == "1" else 8
