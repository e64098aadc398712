"""Colors of a reference by statistics: no model, no places, only how often which color is there.

    image, reference --strips of points in a color space--> moments, histograms or samples --> stages
    image --stages--> its colors, mixed by strength and mask --> in gamut

:mod:`color.matching` has the maps, :mod:`color.clouds` the statistics, :mod:`color.planes` the color space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from ..color import as_picture, check_batch, check_masks
from ..color.clouds import BETWEEN, Cloud, Coordinates, Pool, Space
from ..color.matching import Grid, Stage, histograms, sliced, spread, transport
from ..color.planes import Gamut, from_lab, shown, to_lab
from ..color.transfer import at_size
from ..settings import Settings, setting, share

Method = Literal["mean and spread", "covariance", "histogram", "histogram and covariance", "sliced transport"]
Statistics = Literal["each frame", "whole batch", "one frame"]

#: What each method is made of; sliced transport is of its own.
STEPS: dict[Method, tuple[str, ...]] = {
    "mean and spread": ("spread",),
    "covariance": ("transport",),
    "histogram": ("histograms",),
    "histogram and covariance": ("histograms", "transport", "histograms"),
}
#: Told how many pictures are done, and the last one.
Progress = Callable[[int, "Tensor | None"], None]


@dataclass(frozen=True)
class MatchSettings(Settings):
    """How colors are matched."""

    method: Method = setting(
        "covariance",
        "What becomes the reference's. mean and spread: each channel's own (Reinhard). covariance: how channels go "
        "together, too (Monge-Kantorovich, MKL). histogram: each channel's whole curve. histogram and covariance: one "
        "after the other (HM-MKL-HM). sliced transport: all of the distribution, the closest and slowest.",
    )
    keep_lightness: bool = setting(
        False,
        "On, only a and b of CIE Lab change and lightness stays exactly what it is, as for colorized photographs. Off, "
        "brightness and contrast are matched, too.",
    )
    strength: float = share(1.0, "0 leaves the picture as it is, 1 matches fully; between the two is a mixture.")
    statistics: Statistics = setting(
        "each frame",
        "Of which frames. each frame is matched by itself, so each gets a map of its own, which flickers in a film. "
        "whole batch takes all frames together, one frame the one named below, and both give all frames one map.",
    )
    frame: int = setting(
        0,
        "The frame whose statistics count with one frame, from 0 for the first. It has no effect otherwise.",
        low=0,
        high=2**20,
        advanced=True,
    )
    space: Space = setting(
        "CIE Lab",
        "In which coordinates. CIE Lab keeps lightness and color apart as the eye does. RGB is what ColorMatch's mkl "
        "and hm use. l-alpha-beta is that of Reinhard's paper and of ColorMatch's reinhard; it stretches the darks.",
        advanced=True,
    )
    gamut: Gamut = setting(
        "fit",
        "Colors that no screen can show. fit makes them paler at the same lightness and hue; clip cuts each channel, "
        "which changes lightness.",
        advanced=True,
    )

    @property
    def coordinates(self) -> Coordinates:
        """What of a pixel is matched."""
        return Coordinates(self.space, self.keep_lightness and self.space == "CIE Lab")


def match_colors(
    image: Tensor,
    reference: Tensor,
    settings: MatchSettings,
    *,
    mask: Tensor | None = None,
    reference_mask: Tensor | None = None,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Pictures in the colors of references, by statistics.

    :param image: (B or 1, H, W, 3) in 0..1.
    :param reference: (B or 1, *, *, 3), of any size: one for all, or one for each with ``each frame``; otherwise any
        number, which count together.
    :param mask: (B or 1, *, *) in 0..1: where statistics are taken, and how far colors change there; elsewhere the
        picture is what it was, bit for bit.
    :param reference_mask: (1 or references, *, *): how much each place of the references counts.
    :param device: where the work is done; None is where the image is.
    :param progress: called with the number of pictures that are done, and with the last one, (H, W, 3), whenever one
        is; with None now and then. What it raises ends the work.
    :returns: (B, H, W, 3) in 0..1, dtype and device of ``image``; ``image`` itself with strength 0.
    :raises ValueError: pictures that are none, numbers that do not fit, a frame that is not there, an empty mask of the
        references.
    """
    image, reference = as_picture(image, "image"), as_picture(reference, "reference")
    apart = settings.statistics == "each frame"
    batch = _checked(image, reference if apart else None, mask, settings)
    mask = check_masks(mask, batch)
    reference_mask = check_masks(reference_mask, len(reference), "reference_mask")
    if settings.strength == 0:
        return image if len(image) == batch else image.repeat(batch, 1, 1, 1)
    tell, done = progress or _nothing, 0

    def going_on() -> None:
        tell(done, None)

    work = partial(_clouds, coordinates=settings.coordinates, device=device or image.device)
    clouds = work(image, mask, batch)
    models = _references(work(reference, reference_mask, len(reference)), apart, going_on)
    out = image.new_empty(batch, *image.shape[1:])
    shared: Sequence[Stage] | None = None
    if not apart:
        chosen = clouds if settings.statistics == "whole batch" else [clouds[settings.frame]]
        counted = [cloud for cloud in chosen if _counts(cloud)]
        shared = _fitted(Pool(counted, going_on), next(models), settings) if counted else ()
    for index, cloud in enumerate(clouds):
        model = next(models) if shared is None else None
        stages = shared
        if model is not None:
            stages = _fitted(Pool([cloud], going_on), model, settings) if _counts(cloud) else ()
        _paint(cloud, stages or (), settings, out[index], going_on)
        cloud.forget()
        done = index + 1
        tell(done, out[index])
    return out


def _nothing(_done: int, _picture: Tensor | None) -> None:
    """Where no progress is shown."""


def _checked(image: Tensor, reference: Tensor | None, mask: Tensor | None, settings: MatchSettings) -> int:
    """How many pictures come out.

    :param reference: None where any number will do.
    """
    if settings.statistics == "one frame" and settings.frame >= len(image):
        raise ValueError(
            f"frame is {settings.frame}, but image has {len(image)} frame(s), which count from 0; name one of them."
        )
    if reference is not None and len(reference) not in (1, len(image)) and len(image) != 1:
        raise ValueError(
            f"reference: found {len(reference)} for {len(image)} frame(s), expected one for all, or one for each; set "
            "statistics to whole batch, which takes any number together."
        )
    return check_batch(image=image, reference=reference, mask=check_masks(mask, 0))


def _clouds(
    pictures: Tensor, masks: Tensor | None, count: int, coordinates: Coordinates, device: torch.device
) -> list[Cloud]:
    """One for each picture that is worked on; a mask that serves many is resized once, and held once."""
    size = (pictures.shape[1], pictures.shape[2])
    weights: list[Tensor | None] = [None]
    if masks is not None:
        weights = [mask if mask.shape == size else at_size(mask.float(), size).clamp(0, 1) for mask in masks]
    return [
        Cloud(pictures[index % len(pictures)], weights[index % len(weights)], coordinates, device)
        for index in range(count)
    ]


def _counts(cloud: Cloud) -> bool:
    """Whether there is anything of it to take statistics of."""
    return cloud.weights is None or bool((cloud.weights > 0).any())


def _references(clouds: list[Cloud], apart: bool, tell: Callable[[], None]) -> Iterator[Pool]:
    """What is matched to: one pool for each frame, in their order, or the same ever again."""
    counted = [cloud for cloud in clouds if _counts(cloud)]
    if not counted or (apart and len(counted) < len(clouds)):
        which = "it is black" if len(clouds) == 1 else "it is black for one of the references"
        raise ValueError(f"reference_mask: {which}, expected a place that counts; paint it white there.")
    return _endless(counted, apart, tell)


def _endless(clouds: list[Cloud], apart: bool, tell: Callable[[], None]) -> Iterator[Pool]:
    if not apart or len(clouds) == 1:
        pool = Pool(clouds, tell)
        while True:
            yield pool
    for cloud in clouds:
        yield Pool([cloud], tell)
        cloud.forget()


def _fitted(source: Pool, reference: Pool, settings: MatchSettings) -> tuple[Stage, ...]:
    """The map from one distribution to another, in stages."""
    coordinates = settings.coordinates
    if settings.method == "sliced transport":
        return sliced(source.sample(), reference.sample(), coordinates.noise)
    stages: list[Stage] = []
    grid = coordinates.grid
    for step in STEPS[settings.method]:
        if step == "histograms":
            if stages:  # which may have led out of the grid
                grid = Grid.over([source.range(stages), reference.range()])
            curves = histograms(grid, source.counts(grid, stages), reference.counts(grid), coordinates.noise)
            stages.append(curves.to(source.clouds[0].device))
        else:
            fit = spread if step == "spread" else transport
            stages.append(fit(source.moments(stages), reference.moments(), coordinates.noise))
    return tuple(stages)


def _paint(
    cloud: Cloud, stages: Sequence[Stage], settings: MatchSettings, out: Tensor, tell: Callable[[], None]
) -> None:
    """Write a picture in its new colors to (H, W, 3)."""
    pixels = out.view(-1, 3)
    for number, part in enumerate(cloud.strips()):
        if number % BETWEEN == 0:
            tell()
        weight = cloud.weight(part)
        if not stages:
            pixels[part] = cloud.picture.reshape(-1, 3)[part]
            continue
        amount = settings.strength if weight is None else weight * settings.strength
        rgb = _colored(cloud, part, stages, settings, amount)
        if weight is not None:
            rgb = torch.where(weight > 0, rgb, cloud.rgb(part))
        for channel in range(3):
            pixels[part, channel].copy_(rgb[channel])


def _colored(
    cloud: Cloud, part: slice, stages: Sequence[Stage], settings: MatchSettings, amount: float | Tensor
) -> Tensor:
    """(3, n): a strip in its new colors."""
    coordinates, points = cloud.coordinates, cloud.points(part)
    new = points
    for stage in stages:
        new = stage(new)
    if coordinates.space == "CIE Lab":
        new = _mixed(points, new, amount)
        return from_lab(torch.cat([cloud.channels(part)[:1], new]) if coordinates.chroma else new, settings.gamut)
    if not settings.keep_lightness:
        return shown(coordinates.to_rgb(_mixed(points, new, amount)), settings.gamut)
    own, other = to_lab(cloud.rgb(part)), to_lab(coordinates.to_rgb(new))
    return from_lab(torch.cat([own[:1], _mixed(own[1:], other[1:], amount)]), settings.gamut)


def _mixed(old: Tensor, new: Tensor, amount: float | Tensor) -> Tensor:
    return new if isinstance(amount, float) and amount == 1 else torch.lerp(old, new, amount)
