"""What palettes do: whether all colors keep to them, and whether a thing has the same color on page after page."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from comfyui_exemplar.color import rgb_to_lab
from comfyui_exemplar.memory.entries import ColorMemory, merged
from comfyui_exemplar.memory.features import FeatureSource
from comfyui_exemplar.pipelines.memory import color_by_memory, write_palette, write_references
from comfyui_exemplar.pipelines.memory_settings import MemorySettings, WritingSettings

from .pages import Pages

#: Colors of a palette, as many as a person would choose.
COLORS = 6
#: Nearest a channel comes to 0 or 1 where sRGB has the color.
_LIMIT = 1.5 / 255
PLAIN = "no palette"
#: Ways of coloring pages, and whether a palette is of each thing in its own region, and tied to lightness.
WAYS = {
    "palette": (False, False),
    "palette by lightness": (False, True),
    "a palette for each thing": (True, False),
    "a palette for each thing, by lightness": (True, True),
}


@dataclass(frozen=True)
class PaletteNumbers:
    """Of one way of coloring pages.

    :param spread: of every thing of every story, how far its mean color is from its mean over pages (root mean square,
        units of CIE Lab); ``places`` the same of each place of the thing, averaged over it.
    :param error: mean distance in (a, b) inside the things, a page each.
    :param beyond: how far pixels are from the palette's hull, those that sRGB has; ``paled`` of all pixels, from the
        hull with gray in it, since sRGB lacks strong colors where it is very light or dark.
    """

    spread: Tensor
    places: Tensor
    error: Tensor
    beyond: Tensor
    paled: Tensor

    def summary(self, plain: PaletteNumbers) -> dict[str, float]:
        """Numbers, and the spreads beside those without a palette."""
        row = {
            "error inside": float(self.error.mean()),
            "spread of things": float(self.spread.mean()),
            "spread of places": float(self.places.mean()),
            "spread of things, of that without": float(self.spread.mean() / plain.spread.mean()),
            "spread of places, of that without": float(self.places.mean() / plain.places.mean()),
        }
        if len(self.beyond):
            row |= {
                "beyond the hull, max": float(self.beyond.max()),
                "beyond the hull, 99.9th percentile": float(np.quantile(self.beyond.numpy(), 0.999)),
                "beyond the hull with gray, all pixels, max": float(self.paled.max()),
                "beyond the hull with gray, all pixels, 99.9th percentile": float(
                    np.quantile(self.paled.numpy(), 0.999)
                ),
            }
        return row


def colors_of(picture: Tensor, mask: Tensor, count: int = COLORS) -> Tensor:
    """The main colors of a part of a picture, (1, 1, at most count, 3) in 0..1, by median cut.

    :param picture: (H, W, 3) in 0..1; ``mask`` (H, W) bool.
    """
    strip = Image.fromarray((picture[mask][None] * 255).round().byte().numpy())
    found = strip.quantize(count, Image.Quantize.MEDIANCUT).convert("RGB").getcolors()
    return torch.tensor([color for _, color in sorted(found, reverse=True)])[None, None].float() / 255


def measure_palettes(
    network: FeatureSource,
    stories: list[Pages],
    asking: MemorySettings,
    writing: WritingSettings,
    shown: list[dict[str, Tensor]] | None = None,
) -> dict[str, PaletteNumbers]:
    """Color every page of every story by its reference alone, and with palettes of the reference's main colors
    (:data:`WAYS`).

    :param shown: gets the pictures of each story's first pages by each way.
    """
    ways: dict[str, list[tuple]] = {}
    for story in stories:
        memory = write_references(network, story.reference, writing)
        things = [colors_of(story.reference[0], story.reference_things[0] == number) for number in (0, 1)]
        every = torch.cat([*things, torch.ones(1, 1, 1, 3)], 2)  # the ground is white
        features = network.features(story.gray)
        for name in (PLAIN, *WAYS):
            images = []
            for i in range(len(story.pictures)):
                palettes = _palettes(name, every, things, story.things[i])
                result = color_by_memory(
                    network,
                    story.gray[i : i + 1],
                    merged([memory, *palettes]),
                    asking,
                    features=features.take(slice(i, i + 1)),
                )
                images.append(result.images)
            pictures = torch.cat(images)
            palette = every if name in WAYS and not WAYS[name][0] else None
            ways.setdefault(name, []).append(_of_story(story, pictures, palette))
            if shown is not None:
                shown.append({"story": story, "way": name, "pictures": pictures})
    return {
        name: PaletteNumbers(*(torch.cat(each) for each in zip(*found, strict=True))) for name, found in ways.items()
    }


def _palettes(name: str, every: Tensor, things: list[Tensor], regions: Tensor) -> list[ColorMemory]:
    if name == PLAIN:
        return []
    apart, by_lightness = WAYS[name]
    if not apart:
        return [write_palette(every, by_lightness=by_lightness)]
    masks = ((regions == number)[None].float() for number in (0, 1))
    return [
        write_palette(colors, mask=mask, by_lightness=by_lightness) for colors, mask in zip(things, masks, strict=True)
    ]


def _of_story(story: Pages, pictures: Tensor, palette: Tensor | None) -> tuple[Tensor, ...]:
    """The fields of :class:`PaletteNumbers` of one story."""
    chroma, truth = (rgb_to_lab(each)[..., 1:] for each in (pictures, story.pictures))
    inside = [(story.things == number)[..., None].float() for number in (0, 1)]
    means = torch.stack([(chroma * each).sum((1, 2)) / each.sum((1, 2)) for each in inside])  # (2, pages, 2)
    spread = (means - means.mean(1, keepdim=True)).square().sum(-1).mean(1).sqrt()
    places = []
    for number, each in enumerate(inside):
        same = story.straightened(chroma, number)
        off = (same - same.mean(0)).square().sum(-1).mean(0).sqrt()
        covered = story.straightened(each, number)[..., 0].amin(0) > 0.5
        places.append(off[covered].mean() if bool(covered.any()) else off.mean())
    weight = (story.things >= 0).float()
    error = ((chroma - truth).norm(dim=-1) * weight).sum((1, 2)) / weight.sum((1, 2))
    if palette is None:
        return spread, torch.stack(places), error, torch.zeros(0), torch.zeros(0)
    colors = rgb_to_lab(palette)[0, 0, :, 1:]
    has = ((pictures > _LIMIT) & (pictures < 1 - _LIMIT)).all(-1)
    paled = beyond_hull(chroma.reshape(-1, 2), torch.cat([colors, torch.zeros(1, 2)]))
    return spread, torch.stack(places), error, beyond_hull(chroma[has], colors), paled


def beyond_hull(points: Tensor, colors: Tensor) -> Tensor:
    """How far points (n, 2) are outside the convex hull of colors (P, 2); 0 inside. By its edges, one by one."""
    corners = _corners([tuple(color) for color in colors.tolist()])
    inside = torch.full((len(points),), len(corners) > 2)
    nearest = torch.full((len(points),), float("inf"))
    for i, start in enumerate(corners):
        a, b = torch.tensor(start), torch.tensor(corners[(i + 1) % len(corners)])
        side, way = b - a, points - a
        along = (way @ side / side.square().sum().clamp_min(1e-12)).clamp(0, 1)
        nearest = torch.minimum(nearest, (way - along[:, None] * side).norm(dim=-1))
        inside &= side[0] * way[:, 1] - side[1] * way[:, 0] >= 0
    return torch.where(inside, 0.0, nearest)


def _corners(points: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """Corners of a convex hull, counterclockwise: Andrew's monotone chain."""
    points = sorted(set(points))
    if len(points) < 3:
        return points

    def chain(ordered: list) -> list:
        found: list = []
        for p in ordered:
            while len(found) > 1 and _turn(found[-2], found[-1], p) <= 0:
                found.pop()
            found.append(p)
        return found[:-1]

    return chain(points) + chain(points[::-1])


def _turn(a: tuple, b: tuple, c: tuple) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
