"""One page as a decoder found it, and how it becomes sRGB that stands upright."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .profiles import Colors, floats, to_srgb

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass
class Raster:
    """A page's samples as a decoder hands them on, before profile and orientation."""

    #: (H, W, C), uint8 in 0..255 or float32 in 0..1; for "lab" float32 L in 0..100, a, b.
    samples: NDArray[Any]
    #: "gray", "rgb", "cmyk" or "lab".
    model: str
    #: (H, W) float32 in 0..1, 1 is opaque.
    alpha: NDArray[Any] | None = None
    colors: Colors = field(default_factory=Colors)
    #: EXIF's number, 1 to 8.
    orientation: int = 1
    #: Color was multiplied by alpha.
    premultiplied: bool = False


@dataclass
class Decoded:
    """The pages of a file as a decoder found them, and what the file said; :class:`.FileFacts` has the words."""

    rasters: list[Raster]
    format: str
    bits: int
    floating: bool = False
    resolution: tuple[float, float] | None = None
    exif: bytes | None = None
    pages: int = 1
    notes: list[str] = field(default_factory=list)


def finish(raster: Raster) -> tuple[NDArray[Any], NDArray[Any] | None, str | None, list[str]]:
    """A raster as (H, W, 3) float32 sRGB, its alpha, the name of its colors, and what a user should know."""
    import numpy as np

    samples, alpha = raster.samples, raster.alpha
    if raster.premultiplied and alpha is not None:
        samples = _divided(samples, alpha)
    image, name, notes = to_srgb(samples, raster.model, raster.colors)
    np.clip(image, 0, 1, out=image)
    if image.shape[2] == 1:
        gray, image = image, np.empty((*image.shape[:2], 3), np.float32)
        image[...] = gray
    if alpha is not None:
        alpha = np.ascontiguousarray(upright(alpha, raster.orientation), np.float32)
    return np.ascontiguousarray(upright(image, raster.orientation)), alpha, name, notes


def _divided(samples: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    """(H, W, C) float32 without the alpha that it was multiplied by; black where nothing shows."""
    import numpy as np

    shown = alpha[..., None] > 0
    return np.where(shown, floats(samples) / np.where(shown, alpha[..., None], 1), 0).clip(0, 1).astype(np.float32)


def upright(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """(H, W, ...) turned and mirrored as EXIF's orientation says."""
    import numpy as np

    if orientation >= 5:
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.asarray(array)


def whole_numbers(samples: NDArray[Any], bits: int) -> NDArray[Any]:
    """Unsigned samples of ``bits`` -> uint8 in 0..255 up to 8 bits, else float32 in 0..1."""
    import numpy as np

    most = 2**bits - 1
    if bits > 8:
        if bits > 24:  # more than a float32 holds
            return (samples.astype(np.float64) / most).astype(np.float32)
        floats = samples.astype(np.float32)
        floats /= most
        return floats
    if bits == 8:
        return samples.astype(np.uint8, copy=False)
    if 255 % most == 0:
        return samples.astype(np.uint8) * np.uint8(255 // most)
    return samples.astype(np.float32) / most


def real_numbers(samples: NDArray[Any], notes: list[str]) -> NDArray[Any]:
    """Floating-point samples, whose range is 0..1, as float32.

    Slightly more comes from resampling and is clipped with a note; other ranges are other units.

    :raises ValueError: not a number, or far outside 0..1.
    """
    import numpy as np

    low, high = (float(samples.min()), float(samples.max())) if samples.size else (0.0, 0.0)
    if not np.isfinite([low, high]).all():
        raise ValueError("its floating-point samples hold values that are no numbers (NaN or infinite)")
    if low < -0.5 or high > 1.5:
        raise ValueError(
            f"its floating-point samples run from {low:.6g} to {high:.6g}, expected 0 to 1; scale them to 0..1, or "
            "save as 16-bit whole numbers"
        )
    if low < 0 or high > 1:
        notes.append(f"its floating-point samples run from {low:.4g} to {high:.4g}: what is outside 0..1 was clipped")
    return samples.astype(np.float32).clip(0, 1)
