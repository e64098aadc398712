"""Writing into a color memory: what a picture looks like at each place, and which color is there."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .entries import ColorMemory, Made
from .features import Features, joined_keys
from .keys import Precision, stored
from .strokes import Marks

#: Share of a place that a mask must cover for it to be an entry. Of a mask that is thinner everywhere, those that it
#: covers most are entries.
LEAST = 0.1


def from_references(
    features: Features,
    chroma: Tensor,
    *,
    masks: Tensor | None = None,
    weights: tuple[float, ...] = (),
    names: tuple[str, ...] = (),
    context: float = 0.0,
    precision: Precision = "float16",
    maker: str = "",
) -> ColorMemory:
    """A memory of reference pictures: one entry a place of the finest grid, one source a picture.

    :param features: of B pictures, without their color.
    :param chroma: (B, H, W, 2), a and b of CIE Lab of the same pictures, any size.
    :param masks: (1 or B, *, *) in 0..1, what of them counts. A place that is covered in part has the color of that
        part, and counts as much less.
    :param weights: how much each picture counts; () for all alike.
    :param names: of the sources.
    :param context: see ``features.on_grid``.
    :param maker: the network's name, for messages.
    :raises ValueError: numbers that do not fit, a mask that covers nothing, a weight that is not above 0.
    """
    count, grid = features.pictures, features.grid
    _check(count, len(chroma), masks, weights, names)
    check_cover(masks)
    cover = _cover(masks, count, grid)
    part = torch.ones(1, 1, *chroma.shape[1:3]) if masks is None else _at(masks, chroma)
    color = chroma.float().movedim(-1, 1)
    pooled = F.adaptive_avg_pool2d(torch.cat([color * part, part.expand(count, -1, -1, -1)], 1), grid)
    color = (pooled[:, :2] / pooled[:, 2:].clamp_min(1e-6)).flatten(2).transpose(1, 2)
    weight = cover.flatten(1) * torch.tensor(weights or (1.0,) * count)[:, None]
    keep = cover.flatten(1) >= cover.flatten(1).amax(1, keepdim=True).clamp_max(LEAST)
    keys = joined_keys(features, context)[keep.to(features.keys[0].device)]
    made = Made(features.fingerprint, features.spaces, context, maker)
    return ColorMemory(
        made,
        stored(keys.cpu(), made.widths, precision),
        color[keep],
        weight[keep],
        torch.arange(count)[:, None].expand_as(keep)[keep],
        names or tuple(f"reference {i + 1}" for i in range(count)),
    )


def from_strokes(
    features: Features,
    chroma: Tensor,
    place: Tensor,
    lightness: Tensor,
    *,
    weight: float = 1.0,
    name: str = "strokes",
    context: float = 0.0,
    precision: Precision = "float16",
    maker: str = "",
) -> ColorMemory:
    """A memory of strokes on one picture: entries at the marked places, and the marks themselves.

    :param features: of the one gray picture.
    :param chroma: (H, W, 2), a and b of CIE Lab of the painted colors.
    :param place: (H, W) bool, where they were painted.
    :param lightness: (H, W), CIE L of the picture.
    :raises ValueError: several pictures, sizes that differ, or marks that cover nothing.
    """
    if features.pictures != 1:
        raise ValueError(f"strokes: found {features.pictures} pictures, expected the one that was painted on.")
    marks = Marks(chroma.float(), place, lightness.float())
    mask = place.float()[None]
    memory = from_references(
        features,
        chroma[None],
        masks=mask,
        names=(name,),
        context=context,
        precision=precision,
        maker=maker,
    )
    return replace(memory, weight=torch.full_like(memory.weight, weight), marks=(marks,))


def check_cover(masks: Tensor | None) -> None:
    """Whether each mask, (n, H, W), covers anything.

    :raises ValueError: one does not.
    """
    for i, mask in enumerate(() if masks is None else masks, 1):
        if not bool((mask > 0).any()):
            raise ValueError(
                f"mask: found one that covers nothing of reference {i}, expected some place; paint one, or disconnect "
                "the mask."
            )


def _cover(masks: Tensor | None, count: int, grid: tuple[int, int]) -> Tensor:
    """(B, h, w): how much of each place counts."""
    if masks is None:
        return torch.ones(count, *grid)
    return F.adaptive_avg_pool2d(masks.float()[:, None], grid)[:, 0].expand(count, -1, -1).cpu()


def _at(masks: Tensor, chroma: Tensor) -> Tensor:
    """Masks at the size of the chroma, (1 or B, 1, H, W)."""
    planes = masks.float()[:, None]
    if planes.shape[2:] == chroma.shape[1:3]:
        return planes
    return F.interpolate(planes, tuple(chroma.shape[1:3]), mode="bilinear", antialias=True)


def _check(count: int, colored: int, masks: Tensor | None, weights: tuple, names: tuple) -> None:
    if colored != count:
        raise ValueError(f"references: found {count} pictures beside the colors of {colored}, expected one number.")
    if masks is not None and len(masks) not in (1, count):
        raise ValueError(
            f"masks: found {len(masks)} for {count} reference(s), expected one for all or one each; select as many."
        )
    for name, values in (("weights", weights), ("names", names)):
        if values and len(values) != count:
            raise ValueError(f"{name}: found {len(values)} for {count} reference(s), expected one each.")
    if any(not 0 < weight < float("inf") for weight in weights):
        raise ValueError(f"weights: found {weights}, expected numbers above 0; leave out what is not to count.")
