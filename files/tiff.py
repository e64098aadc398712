"""TIFF pages as rasters: what the tags say that the samples mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from . import capture, profiles
from .raster import Decoded, Raster, real_numbers, whole_numbers
from .room import check_room
from .tiff_strips import (
    FLOAT,
    JPEG,
    NAMES,
    OF_BYTES,
    OF_PIXELS,
    PREDICTED,
    SIGNED,
    UNSIGNED,
    WEBP,
    Layout,
    read_samples,
)
from .tiff_tags import MASK, SUBFILE, Directory, Tags, full_pages

if TYPE_CHECKING:
    from numpy.typing import NDArray

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, CIELAB, ICCLAB = 0, 1, 2, 3, 5, 6, 8, 9
COLORS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3, CIELAB: 3, ICCLAB: 3}
REFUSED = {
    4: "a transparency mask",
    10: "ITU Lab",
    32803: "camera raw: develop it to a picture first",
    34892: "camera raw: develop it to a picture first",
    32844: "SGI LogL",
    32845: "SGI LogLuv",
    51177: "a depth map",
}
#: ExtraSamples: color was multiplied by it, or not.
ASSOCIATED, UNASSOCIATED = 1, 2


def decode(file: BinaryIO, pages: Literal["first", "all"]) -> Decoded:
    """The pages of a TIFF file.

    :raises ValueError: what cannot be read, by name.
    """
    tags = Tags(file)
    full = full_pages(tags)
    if not full:
        raise ValueError("a TIFF file without a page")
    notes: list[str] = []
    if any(page.number(SUBFILE, 0) & MASK for page in tags.pages if page not in full):
        notes.append("its transparency mask, a page of its own, is left")
    first, wanted = full[0], full if pages == "all" else full[:1]
    check_room(first.number(256, 0), first.number(257, 0), len(wanted))
    rasters = [_raster(file, page, tags.order, notes) for page in wanted]
    return Decoded(
        rasters,
        "TIFF",
        max(first.numbers(258, (1,))),
        floating=first.number(339, UNSIGNED) == FLOAT,
        resolution=_resolution(first),
        exif=capture.of_tiff(tags, first),
        pages=len(full),
        notes=list(dict.fromkeys(notes)),
    )


def size(file: BinaryIO) -> tuple[int, int]:
    """(height, width) of the first page, turned upright, from its tags.

    :raises ValueError: there is no page.
    """
    full = full_pages(Tags(file))
    if not full:
        raise ValueError("a TIFF file without a page")
    width, height = full[0].number(256, 0), full[0].number(257, 0)
    return (width, height) if _orientation(full[0], []) in capture.LYING else (height, width)


def _layout(page: Directory, order: Literal["<", ">"], notes: list[str]) -> Layout:
    """How the samples are stored.

    :raises ValueError: in a way that is not read, by name.
    """
    samples = page.number(277, 1)
    bits, formats = page.numbers(258, (1,)), page.numbers(339, (UNSIGNED,))
    photometric = page.number(262, -1)
    if photometric == -1:
        photometric = RGB if samples >= 3 else BLACK_IS_ZERO
        notes.append("it does not say what its values mean (no PhotometricInterpretation): 0 is taken as black")
    if photometric in (CIELAB, ICCLAB):  # a and b may be named signed, or not
        formats = (UNSIGNED,) if FLOAT not in formats else (FLOAT,)
    sample_format = 1 if formats[0] == 4 else int(formats[0])  # 4: not said
    compression = page.number(259, 1)
    if len(set(bits)) > 1 or len(set(formats)) > 1:
        raise ValueError(f"channels of different kinds: {', '.join(map(str, bits))} bits")
    _check_samples(int(bits[0]), sample_format, photometric)
    _check_compression(compression, int(bits[0]), sample_format)
    subsampling = tuple(map(int, page.numbers(530, (2, 2)))) if photometric == YCBCR else (1, 1)
    if photometric == YCBCR and compression != JPEG and (bits[0] != 8 or samples != 3):
        raise ValueError(f"YCbCr of {bits[0]} bits and {samples} channels")
    planar = page.number(284, 1) == 2 and samples > 1
    if planar and subsampling != (1, 1):
        raise ValueError("subsampled YCbCr in separate planes")
    return Layout(
        page.number(256, 0),
        page.number(257, 0),
        int(bits[0]),
        samples,
        sample_format,
        compression,
        photometric,
        page.number(317, 1) if compression in PREDICTED else 1,
        planar,
        page.number(266, 1) == 2,
        order,
        (subsampling[0], subsampling[-1]),
    )


def _check_samples(bits: int, sample_format: int, photometric: int) -> None:
    """Refuse by name what samples no picture is made of."""
    if photometric not in COLORS:
        raise ValueError(REFUSED.get(photometric, f"PhotometricInterpretation {photometric}"))
    if sample_format not in (UNSIGNED, SIGNED, FLOAT):
        raise ValueError("complex numbers as samples")
    if sample_format == SIGNED:
        raise ValueError(
            f"signed samples of {bits} bits, of which no one says what is black or white; save as unsigned"
        )
    if bits not in ((16, 32, 64) if sample_format == FLOAT else range(1, 33)):
        raise ValueError(f"{'floating-point' if sample_format == FLOAT else 'whole'} samples of {bits} bits")


def _check_compression(compression: int, bits: int, sample_format: int) -> None:
    """Refuse by name what cannot be unpacked."""
    if compression not in (*OF_BYTES, *OF_PIXELS):
        raise ValueError(f"{NAMES.get(compression, f'number {compression}')} compression; save without it")
    if compression in (JPEG, WEBP) and (bits != 8 or sample_format != UNSIGNED):
        raise ValueError(f"{NAMES.get(compression, 'JPEG')} compression of {bits} bits; save without it")


def _raster(file: BinaryIO, page: Directory, order: Literal["<", ">"], notes: list[str]) -> Raster:
    """A page's samples and what they mean."""
    layout = _layout(page, order, notes)
    colors, kind = COLORS[layout.photometric], layout.photometric
    if kind in (CIELAB, ICCLAB) and layout.samples == 1:
        colors = 1
    if layout.samples < colors:
        raise ValueError(f"{layout.samples} channels, expected {colors}")
    if layout.width < 1 or layout.height < 1:
        raise ValueError(f"a page of {layout.width} x {layout.height} pixels")
    if kind == CMYK and (page.number(332, 1) != 1 or page.number(334, 4) != 4):
        raise ValueError("inks other than cyan, magenta, yellow and black")
    stored = read_samples(file, page, layout)
    main, extras = stored[..., :colors], stored[..., colors:]
    alpha, premultiplied = _alpha(page, extras, layout, notes)
    samples, model = _meaning(main, page, layout, notes)
    return Raster(samples, model, alpha, _colors(page, notes), _orientation(page, notes), premultiplied)


def _meaning(main: NDArray[Any], page: Directory, layout: Layout, notes: list[str]) -> tuple[NDArray[Any], str]:
    """(H, W, C) stored samples -> samples from 0 (black, or no ink) to the most, and the color model."""
    kind = layout.photometric
    if kind in (CIELAB, ICCLAB):
        return _lab(main, layout), "lab"
    if kind == PALETTE:
        return _palette(main, page, layout), "rgb"
    if kind == YCBCR and layout.compression != JPEG:
        return _from_ycbcr(main, page), "rgb"
    samples = _scaled(main, layout, notes)
    if kind == WHITE_IS_ZERO:
        samples = 255 - samples if samples.dtype.kind == "u" else 1 - samples
    return samples, {1: "gray", 3: "rgb", 4: "cmyk"}[main.shape[2]]


def _scaled(samples: NDArray[Any], layout: Layout, notes: list[str]) -> NDArray[Any]:
    if layout.sample_format == FLOAT:
        return real_numbers(samples, notes)
    return whole_numbers(samples, layout.bits)


def _alpha(page: Directory, extras: NDArray[Any], layout: Layout, notes: list[str]) -> tuple[NDArray[Any] | None, bool]:
    """(H, W) transparency, and whether color was multiplied by it."""
    said = page.numbers(338)
    for index in range(extras.shape[2]):
        meaning = said[index] if index < len(said) else 0
        if meaning in (ASSOCIATED, UNASSOCIATED):
            alpha = profiles.floats(_scaled(extras[..., index], layout, notes))
            if extras.shape[2] > 1:
                notes.append(f"{extras.shape[2] - 1} of its channels, which are no color, are left")
            return alpha, meaning == ASSOCIATED
    if extras.shape[2]:
        notes.append(f"{extras.shape[2]} of its channels, said to be neither color nor transparency, are left")
    return None, False


def _lab(samples: NDArray[Any], layout: Layout) -> NDArray[Any]:
    """(H, W, 3) float32 L in 0..100, a, b; of one channel, a and b are 0."""
    import numpy as np

    if layout.sample_format == FLOAT or layout.bits not in (8, 16):
        raise ValueError(f"CIELAB of {layout.bits} bits; save with 8 or 16 bits, or as RGB")
    most, unit = 2**layout.bits - 1, 2 ** (layout.bits - 8)
    if layout.photometric == ICCLAB and layout.bits == 16:
        most = 65280  # as profiles of version 2 count
    lightness = samples[..., :1].astype(np.float32) * (100 / most)
    if samples.shape[2] == 1:
        return np.concatenate([lightness, np.zeros_like(lightness.repeat(2, 2))], 2)
    if layout.photometric == ICCLAB:
        chroma = samples[..., 1:].astype(np.float32) / unit - 128
    else:
        chroma = samples[..., 1:].view(f"i{layout.bits // 8}").astype(np.float32) / unit
    return np.concatenate([lightness, chroma], 2)


def _palette(samples: NDArray[Any], page: Directory, layout: Layout) -> NDArray[Any]:
    """(H, W, 3) colors of (H, W, 1) indices."""
    import numpy as np

    entries = np.array(page.numbers(320), np.uint16)
    count = 2**layout.bits
    if layout.sample_format == FLOAT or layout.bits > 16 or len(entries) != 3 * count:
        raise ValueError(f"a palette of {len(entries) // 3} colors for {layout.bits} bits")
    table, high, low = entries.reshape(3, count).T, entries >> 8, entries & 255
    if not high.any():  # some writers count colors to 255
        return table.astype(np.uint8)[samples[..., 0]]
    if not low.any() or (low == high).all():  # 8 bits, moved up by most writers, spread by some
        return (table >> 8).astype(np.uint8)[samples[..., 0]]
    return (table.astype(np.float32) / 65535)[samples[..., 0]]


def _from_ycbcr(samples: NDArray[Any], page: Directory) -> NDArray[Any]:
    """(H, W, 3) uint8 RGB of Y, Cb, Cr, by the weights and ranges that the page names."""
    import numpy as np

    red, green, blue = page.numbers(529, (0.299, 0.587, 0.114))
    ranges = np.array(page.numbers(532, (0, 255, 128, 255, 128, 255)), np.float32)
    low, high = ranges[::2], ranges[1::2]
    values = (samples.astype(np.float32) - low) / (high - low)  # chroma in -1..1
    y, cb, cr = values[..., 0] * 255, values[..., 1] * 127, values[..., 2] * 127
    r, b = y + cr * (2 - 2 * red), y + cb * (2 - 2 * blue)
    g = (y - red * r - blue * b) / green
    return np.stack([r, g, b], -1).round().clip(0, 255).astype(np.uint8)


def _colors(page: Directory, notes: list[str]) -> profiles.Colors:
    """The profile, or what the page says about its colors otherwise."""
    if icc := page.data(34675):
        return profiles.Colors(icc)
    if 301 in page or 319 in page:
        notes.append("it names its colors in tags that are not read (no profile): its values are taken as sRGB")
    if 290 in page or 291 in page:
        notes.append("its gray response curve is not read: its values are taken as sRGB")
    return profiles.Colors()


def _orientation(page: Directory, notes: list[str]) -> int:
    found = page.number(274, 1)
    if found not in range(1, 9):
        notes.append(f"its orientation, {found}, is none: it was not turned")
        return 1
    return found


def _resolution(page: Directory) -> tuple[float, float] | None:
    x, y = page.numbers(282), page.numbers(283)
    if not x or not y:
        return None
    return capture.resolution(float(x[0]), float(y[0]), page.number(296, 2), page.number(274, 1))
