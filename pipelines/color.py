"""Color arithmetic as steps of their own: gray copies, luminance merge, statistics of latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..color import (
    adain,
    check_batch,
    check_count,
    chroma_of,
    desaturate,
    merge_chroma,
    merge_luminance,
    official_merge,
    resize,
    to_uint8,
)
from ..color.merge import Gamut, Upsampling
from ..color.sizes import size_of
from ..color.statistics import adain_moments, match_chroma_moments
from ..settings import Settings, setting, share
from .exemplar_references import References

GrayMethod = Literal["CIE lightness", "Rec. 601 luma", "Rec. 601, 8 bit (official)"]

#: Names that ``color.desaturate`` knows the methods by.
_METHODS: dict[GrayMethod, str] = {
    "CIE lightness": "lab",
    "Rec. 601 luma": "rec601",
    "Rec. 601, 8 bit (official)": "rec601_8bit",
}


@dataclass(frozen=True)
class DesaturateSettings(Settings):
    """How a gray copy is made."""

    method: GrayMethod = setting(
        "CIE lightness",
        "CIE lightness keeps exactly the L that Luminance Merge works with. Rec. 601 luma is the television formula, "
        "0.299 R + 0.587 G + 0.114 B. Rec. 601, 8 bit (official) is its integer form, which the published programs "
        "use.",
        published="Rec. 601, 8 bit (official)",
    )


def gray_copy(image: Tensor, settings: DesaturateSettings) -> Tensor:
    """(B, H, W, 3) in 0..1 -> the same without color, in three equal channels."""
    return desaturate(image, _METHODS[settings.method])


@dataclass(frozen=True)
class LuminanceMergeSettings(Settings):
    """How colors of one picture come to the lightness of another."""

    match_chroma: float = share(
        1.0,
        "Needs a reference. 0 keeps the colors as they are, 1 gives them the reference's mean and spread. Without a "
        "reference it does nothing.",
        formerly="match_statistics",
    )
    saturation: float = setting(
        1.0,
        "Colorfulness. 0 is gray, 1 is as it is, above 1 is stronger.",
        low=0.0,
        high=2.0,
        step=0.05,
        round=0.001,
        formerly="chroma",
    )
    gamut: Gamut = setting(
        "fit",
        "Colors that no screen can show. fit makes them paler at the same lightness and hue; clip cuts each channel, "
        "which changes lightness.",
        advanced=True,
    )
    upsampling: Upsampling = setting(
        "guided",
        "How the colors of a smaller picture are enlarged. guided lets them follow the edges of the gray picture (fast "
        "guided filter), so that they end where things end; smooth is bilinear and blurs them across edges. At equal "
        "size, or where a side has to shrink, the two are the same.",
        advanced=True,
    )
    arithmetic: Literal["exact", "official 8 bit"] = setting(
        "exact",
        "exact works in float. official 8 bit repeats the published program, with its truncation and its wrap-around "
        "of strong colors; it needs OpenCV and a reference, always matches statistics fully, and ignores saturation, "
        "gamut, upsampling and mask.",
        published="official 8 bit",
        advanced=True,
    )


def luminance_merge(
    color_image: Tensor,
    image: Tensor,
    settings: LuminanceMergeSettings,
    *,
    reference: Tensor | None = None,
    mask: Tensor | None = None,
    several: Sequence[float] | None = None,
    reference_masks: Tensor | None = None,
) -> Tensor:
    """Chroma of one picture on the lightness of another.

    :param color_image: (B or 1, h, w, 3) in 0..1, gives a and b.
    :param image: (B or 1, H, W, 3) in 0..1, gives L.
    :param reference: (B or 1, *, *, 3), whose color statistics to match.
    :param mask: (B or 1, *, *), where color goes.
    :param several: weights of references of any number, whose common statistics are matched, () for all alike; None
        where each picture has one.
    :param reference_masks: (1 or references, *, *), which part of several references counts: above one half. One with
        nothing there leaves its reference out.
    :returns: (B, H, W, 3) in 0..1.
    :raises ValueError: shapes or batches that do not fit, or no reference for the official arithmetic.
    """
    if reference is not None and several is not None and len(reference) > 1:
        references = References.of(reference, reference_masks, several)
        return _merge_of_several(color_image, image, settings, references, mask)
    check_batch(color_image=color_image, image=image, reference=reference, mask=mask)
    if settings.arithmetic == "exact":
        return merge_luminance(
            color_image,
            image,
            statistics_from=reference if settings.match_chroma > 0 else None,
            statistics_strength=settings.match_chroma,
            saturation=settings.saturation,
            mask=mask,
            gamut=settings.gamut,
            upsampling=settings.upsampling,
        )
    if reference is None:
        raise ValueError("The official 8-bit merge always matches a reference; connect one, or choose 'exact'.")
    size = size_of(image)
    decoded = resize(color_image, size).movedim(-1, 1) * 2 - 1
    return official_merge(decoded, to_uint8(image), to_uint8(resize(reference, size))).float() / 255


def _merge_of_several(
    color_image: Tensor,
    image: Tensor,
    settings: LuminanceMergeSettings,
    references: References,
    mask: Tensor | None,
) -> Tensor:
    if settings.arithmetic != "exact":
        raise ValueError(
            "arithmetic is official 8 bit, which knows one reference only; expected exact with several for every image."
        )
    check_batch(color_image=color_image, image=image, mask=mask)
    chroma = match_chroma_moments(chroma_of(color_image), references.chroma(), settings.match_chroma)
    return merge_chroma(
        chroma,
        desaturate(image),
        saturation=settings.saturation,
        mask=mask,
        gamut=settings.gamut,
        upsampling=settings.upsampling,
    )


@dataclass(frozen=True)
class LatentLuminanceSettings(Settings):
    """How far a latent is pulled to a gray picture's luminance."""

    strength: float = share(
        1.0,
        "0 changes nothing, 1 takes the gray picture's luminance entirely. With a model it acts at every step, so the "
        "effect of values below 1 adds up.",
    )


@dataclass(frozen=True)
class StatisticsMatchSettings(Settings):
    """How far a latent takes another one's statistics."""

    strength: float = share(
        1.0, "0 leaves the latent as it is, 1 takes the reference's statistics; between the two is a mixture."
    )


def match_latents(
    latent: Tensor,
    reference: Tensor,
    settings: StatisticsMatchSettings,
    several: Sequence[float] | None = None,
    reference_masks: Tensor | None = None,
) -> Tensor:
    """AdaIN of latents: each channel takes the mean and spread that it has in the reference.

    :param latent: (B, C, h, w).
    :param reference: (1 or B, C, *, *), any number with ``several``.
    :param several: weights of references whose common statistics are taken, () for all alike; None where each latent
        has one.
    :param reference_masks: (1 or references, *, *), which part of several references counts, as in
        :func:`luminance_merge`.
    :returns: (B, C, h, w).
    :raises ValueError: other channels, or a number of references, masks or weights that does not fit.
    """
    if latent.shape[1] != reference.shape[1]:
        raise ValueError(
            f"reference: found a latent of {reference.shape[1]} channels, expected {latent.shape[1]}, as the latent "
            "has; make both with one VAE."
        )
    if several is not None and len(reference) > 1:
        references = References.of(None, reference_masks, several, inverted=len(reference))
        return adain_moments(latent, references.moments(reference.movedim(1, -1), unbiased=True), settings.strength)
    check_count(len(reference), len(latent), "reference")
    return adain(latent, reference.to(latent), strength=settings.strength)
