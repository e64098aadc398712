"""What a picture file holds: its pixels as sRGB, its transparency, and what else it said."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class FileFacts:
    """What a picture file said about itself, for whoever writes a result of it."""

    #: Its format's name: "PNG", "TIFF", "JPEG" and so on.
    format: str
    #: Bits of a sample as stored.
    bits: int
    #: Stored with one channel of gray, besides transparency.
    gray: bool
    #: Its samples are floating-point numbers.
    floating: bool = False
    #: The name in its ICC profile, or how else it names its colors; none means that sRGB was assumed.
    profile: str | None = None
    #: Dots per inch across and down.
    resolution: tuple[float, float] | None = None
    #: The capture metadata as an EXIF block that begins with its TIFF header; orientation and thumbnails are left out.
    exif: bytes | None = None
    #: Pages or frames in the file, whether they were read or not.
    pages: int = 1
    #: One line for each thing that a user should know: pages that were left, a profile that could not be used.
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Photograph:
    """The pages of one picture file, read."""

    #: (P, H, W, 3) float32, sRGB in 0..1, turned upright; transparency is not laid on anything.
    images: Tensor
    #: (P, H, W) float32 in 0..1, 1 is opaque; none where the file has no transparency.
    alpha: Tensor | None
    facts: FileFacts
