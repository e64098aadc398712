"""The measures that there are, and a table of their numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Better = Literal["higher", "lower", "neither"]
#: What a measure needs beside the pictures: a reference, the truth, or the gray input (for which the truth will do).
Needs = Literal["", "reference", "truth", "gray"]

KOSUGI, DDCOLOR, COLORMNET, TCVC = "Kosugi 2025", "DDColor", "ColorMNet", "TCVC"


@dataclass(frozen=True)
class Metric:
    """A measure.

    :param key: what programs call it; ``name`` what people do.
    :param needs: what there must be beside the pictures.
    :param published_by: whose program's arithmetic the published number is; "" where no paper of those reports it.
    :param note: what is to be known of the two numbers.
    """

    key: str
    name: str
    needs: Needs
    better: Better
    published_by: str = ""
    note: str = ""


#: In the table's order.
METRICS = (
    Metric(
        "fid_reference",
        "FID, to references",
        "reference",
        "lower",
        KOSUGI,
        "of all outputs from all references, with FID's Inception; both numbers are the same arithmetic",
    ),
    Metric(
        "si_fid",
        "SI-FID",
        "reference",
        "lower",
        KOSUGI,
        "published: one vector a picture and the variance among its numbers; defined (SinGAN): statistics over places",
    ),
    Metric("his", "HIS", "reference", "higher", KOSUGI, "published: the reference alone is shrunk and enlarged first"),
    Metric(
        "lpips_reference",
        "LPIPS, to references",
        "reference",
        "lower",
        KOSUGI,
        "how far the output is from the reference, not from the truth",
    ),
    Metric(
        "fid_truth",
        "FID, to the truth",
        "truth",
        "lower",
        DDCOLOR,
        "published: torchvision's Inception on a scale of its own; defined: FID's Inception",
    ),
    Metric(
        "lpips_truth", "LPIPS, to the truth", "truth", "lower", COLORMNET, "published: pictures in 0..255, not -1..1"
    ),
    Metric("psnr", "PSNR, dB", "truth", "higher", COLORMNET, "published: bytes that wrap around"),
    Metric("ssim", "SSIM", "truth", "higher", COLORMNET, "published: scikit-image's flat window"),
    Metric("ab_error", "ab error", "truth", "lower"),
    Metric("colorfulness", "colorfulness", "", "neither", DDCOLOR, "published: of absolute differences"),
    Metric("delta_colorfulness", "delta CF", "truth", "lower", DDCOLOR, "between the two means over all pictures"),
    Metric("lightness_error", "lightness error", "gray", "lower"),
    Metric("ghosting", "ghosting", "gray", "neither", "", "steps of color where lightness has none"),
    Metric("cdc", "CDC", "", "lower", TCVC, "both numbers are the same arithmetic"),
)

METRIC = {metric.key: metric for metric in METRICS}

#: The published and the defined number; None where there is none.
Two = tuple["float | None", "float | None"]


@dataclass(frozen=True)
class Row:
    """A measure's numbers.

    :param published, defined: over all pictures; None where there is none.
    :param each: of each picture; empty for what is of all together.
    """

    metric: Metric
    published: float | None
    defined: float | None
    each: tuple[Two, ...] = ()


@dataclass(frozen=True)
class Measured:
    """All that was found.

    :param rows: in the table's order; measures for which something was lacking have none.
    :param names: of the pictures.
    :param notes: what a reader has to know.
    """

    rows: tuple[Row, ...]
    names: tuple[str, ...]
    notes: tuple[str, ...]

    def row(self, key: str) -> Row | None:
        """A measure's numbers, None where it was not taken."""
        return next((row for row in self.rows if row.metric.key == key), None)
