"""Whether a model's attention finds the same thing again, where the truth is known."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...color import desaturate, luminance
from ...memory.features import joined_keys, joined_queries
from ..memory_features import ModelFeatures
from ..memory_settings import MemorySettings
from .checks import Finding, Verdict
from .subjects import Model

#: How far from its true place a place may be found, in places of the finest grid.
_NEAR = 2

#: A step of L from the ground that makes a place a thing's.
_THING = 8.0


@torch.no_grad()
def matches(model: Model, pictures: Tensor, references: Tensor, side: int) -> tuple[Tensor, tuple[int, int]]:
    """The most alike place of a reference for each place of a picture, both seen at one size.

    :param pictures: (1, H, W, 3) in 0..1, without color; ``references`` the same.
    :param side: of the square whose area is looked at.
    :returns: (h · w,) int64, and the grid (h, w).
    """
    asking = MemorySettings.resolve({**model.recommended.get("memory", {}), "resolution": side})
    network = ModelFeatures(model.host, asking.features)
    seen = network.features(torch.cat([pictures, references]))
    queries = joined_queries(
        seen.take(slice(0, 1)), asking.temperature_coarse, asking.temperature_fine, asking.features.context
    )[0]
    keys = joined_keys(seen.take(slice(1, 2)), asking.features.context)[0]
    best = torch.cat([(part @ keys.T).argmax(-1) for part in queries.split(1024)])
    return best.cpu(), seen.grid


def mirrored(model: Model, gray: Tensor, side: int) -> Finding:
    """Of a picture and its mirrored copy: the true place of each place is known exactly."""
    gray = desaturate(gray)
    found, (height, width) = matches(model, gray, gray.flip(2), side)
    rows, columns = torch.arange(height * width) // width, torch.arange(height * width) % width
    apart = torch.maximum((found // width - rows).abs(), (found % width - (width - 1 - columns)).abs())
    share, middle = float((apart <= _NEAR).float().mean()), float(apart.float().median())
    chance = (2 * _NEAR + 1) ** 2 / (height * width)
    verdict: Verdict = "good" if share >= max(0.25, 3 * chance) else "look"
    note = "" if verdict == "good" else "Attention hardly tells places apart: these may be random weights."
    carried = _carried(gray.flip(2), found, (height, width))
    return Finding(
        f"{share:.2f} of {height} x {width} places; chance {chance:.3f}",
        verdict,
        note,
        {"share": share, "median distance": middle, "chance": chance},
        (("to be found", gray), ("its mirrored copy, carried over by attention", carried)),
    )


def places_changed(model: Model, scene: tuple[Tensor, Tensor, Tensor], side: int) -> Finding:
    """Of two pictures of two things that change sides: in which half each place of a thing is found."""
    gray, reference, _ = scene
    found, (height, width) = matches(model, desaturate(gray), desaturate(reference), side)
    lightness = luminance(gray)[:, None]
    ground = lightness[..., 0, :].median()
    thing = F.adaptive_max_pool2d((lightness - ground).abs(), (height, width)).flatten() > _THING
    columns = torch.arange(height * width) % width
    right = (columns < width / 2) != (found % width < width / 2)
    share = float(right[thing].float().mean())
    verdict: Verdict = "good" if share >= 0.65 else "look"
    note = "" if verdict == "good" else "Attention does not tell the two things apart: these may be random weights."
    shown = ("the reference, carried over by attention", _carried(reference, found, (height, width)))
    return Finding(f"{share:.2f} of {int(thing.sum())} places", verdict, note, {"share": share}, (shown,))


def _carried(reference: Tensor, found: Tensor, grid: tuple[int, int]) -> Tensor:
    """(1, h, w, 3): what a reference, (1, H, W, 3), has at the places that were found."""
    small = F.adaptive_avg_pool2d(reference.cpu().float().movedim(-1, 1), grid)[0].flatten(1)
    carried = small[:, found].unflatten(1, grid)[None]
    size = (256, max(1, round(256 * grid[1] / grid[0])))
    return F.interpolate(carried, size, mode="nearest").movedim(1, -1)
