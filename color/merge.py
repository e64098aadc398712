"""Luminance merge: the color of one picture on the luminance of another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch

from .batches import check_batch
from .gray import desaturate
from .guided import upsample_guided
from .lab import fitted_rgb, lab_to_rgb, rgb_to_lab
from .pictures import check_picture
from .planes import Gamut
from .statistics import match_chroma_statistics

#: How a smaller color picture is enlarged, see :func:`merge_luminance`.
Upsampling = Literal["guided", "smooth"]


def merge_luminance(
    color_image: torch.Tensor,
    image: torch.Tensor,
    *,
    statistics_from: torch.Tensor | None = None,
    statistics_strength: float = 1.0,
    saturation: float = 1.0,
    mask: torch.Tensor | None = None,
    gamut: Gamut = "fit",
    upsampling: Upsampling = "guided",
) -> torch.Tensor:
    """Color a gray picture at its own full size with the chroma of a (usually smaller) color picture.

    The last step of Kosugi 2025 (arXiv 2505.15812), in float CIE Lab instead of the published program's 8-bit one
    (:func:`color.official.official_merge`): L from the gray picture, a and b from the decoded one, optionally with the
    mean and deviation of the reference's. Frames are worked on one by one, so memory does not grow with the batch.

    :param color_image: ``(B or 1, h, w, 3)`` in 0..1, any size; its a and b are stretched to the gray picture's size.
    :param image: ``(B or 1, H, W, 3)`` in 0..1; of a colored one only L is used.
    :param statistics_from: ``(B or 1, *, *, 3)`` in 0..1, the picture whose a, b statistics the color takes over.
    :param statistics_strength: 1 matches them, 0 leaves the color as it is.
    :param saturation: factor on a and b; 0 gives a gray picture, above 1 is more saturated.
    :param mask: ``(B or 1, *, *)`` in 0..1, resized to the gray picture; how much color goes where. Gray elsewhere.
    :param gamut: what happens to colors that sRGB lacks: ``"fit"`` keeps L and hue and lowers the chroma, ``"clip"``
        clamps RGB (more saturated, but L changes).
    :param upsampling: how a smaller color picture is enlarged: ``"guided"`` along the gray picture's edges
        (:func:`color.guided.upsample_guided`), ``"smooth"`` bilinear. Shrinking is antialiased either way.
    :returns: ``(B, H, W, 3)`` in 0..1, dtype and device of ``image``. With ``saturation`` 0, ``image``
        itself if it has no color.
    :raises ValueError: for shapes or batches that do not fit, or another ``gamut``.
    """
    check_picture(color_image, "color_image")
    _check(image, mask, gamut, upsampling)
    if statistics_from is not None:
        check_picture(statistics_from, "statistics_from")
    batch = check_batch(color_image=color_image, image=image, statistics_from=statistics_from, mask=mask)
    if saturation == 0:
        return _without_color(image, batch)
    count = max(color_image.shape[0], 1 if statistics_from is None else statistics_from.shape[0])
    shared = chroma_of(color_image, statistics_from, statistics_strength) if count == 1 else None

    def merged(index: int, lab: torch.Tensor) -> torch.Tensor:
        chroma = shared if shared is not None else _chroma_of(color_image, index, statistics_from, statistics_strength)
        chroma = at_size_of(lab[..., :1], chroma, upsampling) * saturation
        return chroma if mask is None else chroma * _resize(_frame(mask, index)[..., None], image.shape[1:3])

    return _merge(image, batch, gamut, merged)


def chroma_of(
    color_image: torch.Tensor, statistics_from: torch.Tensor | None = None, statistics_strength: float = 1.0
) -> torch.Tensor:
    """a and b of pictures, if wanted with the statistics of others.

    :param color_image: ``(B or 1, h, w, 3)`` in 0..1; ``statistics_from`` ``(B or 1, *, *, 3)`` or None.
    :param statistics_strength: 1 matches the statistics, 0 leaves the color as it is.
    :returns: ``(B, h, w, 2)`` float32 on the CPU, Lab units.
    :raises ValueError: for shapes or batches that do not fit.
    """
    check_picture(color_image, "color_image")
    if statistics_from is not None:
        check_picture(statistics_from, "statistics_from")
    batch = check_batch(color_image=color_image, statistics_from=statistics_from)
    return torch.cat([_chroma_of(color_image, i, statistics_from, statistics_strength) for i in range(batch)])


def merge_chroma(
    chroma: torch.Tensor,
    image: torch.Tensor,
    *,
    saturation: float = 1.0,
    strength: float = 1.0,
    mask: torch.Tensor | None = None,
    gamut: Gamut = "fit",
    upsampling: Upsampling = "guided",
) -> torch.Tensor:
    """:func:`merge_luminance` for chroma that was never a picture, on top of the color that there is.

    :param chroma: ``(B or 1, h, w, 2)``, a and b in Lab units, any size.
    :param image: ``(B or 1, H, W, 3)`` in 0..1; its L is kept.
    :param saturation: factor on a and b; 0 gives a gray picture, above 1 is more saturated.
    :param strength: 0 returns ``image`` itself with whatever color it has, 1 the new color, between is mixed.
    :param mask: ``(B or 1, *, *)`` in 0..1, a factor on ``strength`` from place to place.
    :param gamut: as in :func:`merge_luminance`; ``upsampling`` too.
    :returns: ``(B, H, W, 3)`` in 0..1, dtype and device of ``image``.
    :raises ValueError: for shapes or batches that do not fit, or another ``gamut`` or ``upsampling``.
    """
    check_picture(chroma, "chroma", (2,))
    _check(image, mask, gamut, upsampling)
    batch = check_batch(chroma=chroma, image=image, mask=mask)
    if strength == 0:
        return image if image.shape[0] == batch else image.repeat(batch, 1, 1, 1)

    def merged(index: int, lab: torch.Tensor) -> torch.Tensor:
        new = at_size_of(lab[..., :1], _frame(chroma, index), upsampling) * saturation
        if mask is None and strength == 1:
            return new
        amount = strength
        if mask is not None:
            amount = strength * _resize(_frame(mask, index)[..., None], image.shape[1:3])
        return torch.lerp(lab[..., 1:], new, amount)  # exact where the amount is 0 or 1

    return _merge(image, batch, gamut, merged)


def _merge(
    image: torch.Tensor, batch: int, gamut: str, chroma_at: Callable[[int, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Frame by frame: Lab of the gray picture -> its new a and b -> the picture."""
    out = image.new_empty(batch, *image.shape[1:])
    for index in range(batch):
        lab = rgb_to_lab(_frame(image, index))
        lab = torch.cat([lab[..., :1], chroma_at(index, lab)], -1)
        out[index] = (fitted_rgb if gamut == "fit" else lab_to_rgb)(lab)[0]
    return out


def _check(image: torch.Tensor, mask: torch.Tensor | None, gamut: str, upsampling: str) -> None:
    check_picture(image, "image")
    if mask is not None:
        check_picture(mask[..., None], "mask (with a channel axis added)", (1,))
    if gamut not in get_args(Gamut):
        raise ValueError(f"merge: found gamut {gamut!r}, expected one of {', '.join(get_args(Gamut))}.")
    if upsampling not in get_args(Upsampling):
        raise ValueError(f"merge: found upsampling {upsampling!r}, expected one of {', '.join(get_args(Upsampling))}.")


def _chroma_of(
    color_image: torch.Tensor, index: int, statistics_from: torch.Tensor | None, statistics_strength: float
) -> torch.Tensor:
    chroma = rgb_to_lab(_frame(color_image, index))[..., 1:]
    if statistics_from is not None and statistics_strength != 0:
        # Before resizing: the published program also takes the statistics of the picture as it was decoded.
        reference = rgb_to_lab(_frame(statistics_from, index))[..., 1:]
        chroma = match_chroma_statistics(chroma, reference, statistics_strength)
    return chroma


def _frame(pictures: torch.Tensor, index: int) -> torch.Tensor:
    # On the CPU because that is where lab.py works; one move a frame instead of one a conversion.
    return pictures[index % pictures.shape[0]][None].to("cpu", torch.float32)


def at_size_of(lightness: torch.Tensor, chroma: torch.Tensor, upsampling: str) -> torch.Tensor:
    """Chroma at the size of a picture.

    :param lightness: ``(B, H, W, 1)``, CIE L of the picture.
    :param chroma: ``(B, h, w, 2)``.
    :param upsampling: as in :func:`merge_luminance`.
    :returns: ``(B, H, W, 2)``.
    """
    size = lightness.shape[1:3]
    enlarging = all(target >= side for target, side in zip(size, chroma.shape[1:3], strict=True))
    if upsampling == "guided" and enlarging and chroma.shape[1:3] != size:
        return upsample_guided(chroma, lightness)
    return _resize(chroma, size)


def _resize(picture: torch.Tensor, size: torch.Size) -> torch.Tensor:
    if picture.shape[1:3] == size:
        return picture
    # Antialiasing widens the kernel only along axes that shrink; along others this is plain bilinear.
    channels_first = picture.movedim(-1, 1)
    resized = torch.nn.functional.interpolate(channels_first, tuple(size), mode="bilinear", antialias=True)
    return resized.movedim(1, -1)


def _without_color(image: torch.Tensor, batch: int) -> torch.Tensor:
    neutral = all(bool((frame == frame[..., :1]).all()) for frame in image)
    gray = image if neutral else desaturate(image, "lab")
    return gray if gray.shape[0] == batch else gray.repeat(batch, 1, 1, 1)
