"""Coloring by a color memory: one forward pass a picture, any number of references, strokes and palettes.

    gray references --features--> keys + the references' chroma = memory
    gray input --features--> queries --lookup--> chroma, confidence, source
    chroma --along the input's edges, at full size--> + strokes, within palettes --> on the input's own lightness

No sampling, and nothing is decoded: chroma is carried from the references as numbers, and the finished picture has the
input's own lightness (``color.merge``).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..color import (
    as_picture,
    check_count,
    check_masks,
    desaturate,
    lab_to_rgb,
    luminance,
    merge_chroma,
    resize,
    rgb_to_lab,
)
from ..color.batches import in_batches, part_of
from ..color.merge import at_size_of
from ..color.sizes import size_of
from ..memory.entries import ColorMemory, Made, empty, merged
from ..memory.features import Features, FeatureSource
from ..memory.palette import GRAY, Palette, bounded
from ..memory.strokes import overlaid
from ..memory.writing import check_cover, from_references, from_strokes
from .confidence import full_size, trust
from .memory_answer import answered, confidence
from .memory_settings import MemorySettings, WritingSettings

log = logging.getLogger(__name__)

#: Largest difference of two channels that a gray picture and a painted copy of it may have where nothing was painted.
_PAINTED = 8 / 255
#: Chroma of the hues that stand for sources.
_HUE = 45.0


@dataclass(frozen=True)
class MemoryResult:
    """Pictures colored by a memory.

    :param images: (B, H, W, 3) in 0..1.
    :param confidence: (B, H, W) in 0..1, how sure the memory is.
    :param source: (B, H, W) int64, which of the memory's sources gives most; -1 where none does.
    :param features: of the inputs: with them a changed memory is asked again without the network.
    """

    images: Tensor
    confidence: Tensor
    source: Tensor
    features: Features | None


def write_references(
    network: FeatureSource,
    references: Tensor,
    settings: WritingSettings,
    *,
    masks: Tensor | None = None,
    weights: tuple[float, ...] = (),
    names: tuple[str, ...] = (),
    maker: str = "",
    beside_others: bool = False,
) -> ColorMemory:
    """A memory of reference pictures of one size; those of other sizes are written by themselves and merged.

    :param references: (B, H, W, 3) in 0..1, in color.
    :param masks: (1 or B, H, W), what of them counts.
    :param weights: how much each counts; () for all alike, one for all.
    :param maker: the model's name, for messages; "" is what the network calls itself.
    :param beside_others: whether colors come from elsewhere, too; then gray references are taken without a word.
    :raises ValueError: references without color, masks that cover nothing, numbers that do not fit.
    """
    references = as_picture(references, "references")
    masks = check_masks(masks, len(references), "masks")
    check_cover(masks)
    if len(weights) not in (0, 1, len(references)):
        raise ValueError(
            f"weights: found {len(weights)} for {len(references)} reference(s), expected one each; give as many as "
            "there are references, or one for all."
        )
    weights = weights * len(references) if len(weights) == 1 else weights
    chroma = rgb_to_lab(references.cpu().float())[..., 1:]
    gray = [i for i, one in enumerate(chroma) if float(one.norm(dim=-1).max()) < GRAY]
    if len(gray) == len(chroma) and not beside_others:
        raise ValueError("references: found no color in any of them, expected color pictures; connect some.")
    if gray and not beside_others:
        log.warning("Reference %s has no color; what looks like it stays gray.", ", ".join(str(i + 1) for i in gray))
    return from_references(
        network.features(desaturate(references)),
        chroma,
        masks=masks,
        weights=weights,
        names=names,
        context=settings.features.context,
        precision=settings.keys,
        maker=maker or network.name,
    )


def write_strokes(
    network: FeatureSource,
    gray: Tensor,
    painted: Tensor,
    settings: WritingSettings,
    *,
    mask: Tensor | None = None,
    maker: str = "",
) -> ColorMemory:
    """A memory of colors painted on one picture.

    :param gray: (1, H, W, 3) in 0..1; only its lightness counts.
    :param painted: (1, H, W, 3), the colors: all of it where the mask is above one half, or the gray picture with marks
        painted on it.
    :param mask: (1, H, W), where marks are; None finds them as what differs from the gray picture.
    :raises ValueError: several pictures, sizes that differ, or marks that cover nothing.
    """
    gray, painted = as_picture(gray, "image"), as_picture(painted, "marks")
    place = check_strokes(gray, painted, mask)
    without = desaturate(gray)
    lightness = luminance(without.cpu().float())[0]
    chroma = rgb_to_lab(painted.cpu().float())[0, ..., 1:]
    return from_strokes(
        network.features(without),
        chroma,
        place,
        lightness,
        context=settings.features.context,
        precision=settings.keys,
        maker=maker or network.name,
    )


def check_strokes(gray: Tensor, painted: Tensor, mask: Tensor | None = None) -> Tensor:
    """Where marks are, (H, W) bool, before any model call. Parameters as for :func:`write_strokes`.

    :raises ValueError: several pictures, sizes that differ, or marks that cover nothing.
    """
    for name, each in (("image", gray), ("marks", painted)):
        if len(each) != 1:
            raise ValueError(f"{name}: found {len(each)} pictures, expected one; select one of the batch.")
    if size_of(gray) != size_of(painted):
        raise ValueError(
            f"marks: found {size_of(painted)} for a picture of {size_of(gray)}, expected one size; paint on the "
            "picture itself."
        )
    mask = check_masks(mask, 1, "mask")
    if mask is None:
        place = ((painted - gray).abs().amax(-1) > _PAINTED)[0].cpu()
    else:
        place = full_size(mask.cpu(), size_of(gray))[0] > 0.5
    if not bool(place.any()):
        raise ValueError("marks: found none that cover anything, expected some place; paint on the picture.")
    return place


def write_palette(
    colors: Tensor, *, mask: Tensor | None = None, by_lightness: bool = False, called: str = "palette"
) -> ColorMemory:
    """A memory of colors without places.

    :param colors: (B, H, W, 3) in 0..1, every pixel a color; a list of colors is a picture one pixel high.
    :param mask: (1, H, W), the region of the input that they hold for.
    :param by_lightness: whether each color holds for places about as light as itself only.
    :param called: what the user calls the colors; messages start with it.
    :raises ValueError: nothing but gray, or a mask that covers nothing.
    """
    lab = rgb_to_lab(colors.cpu().float()).reshape(-1, 3)
    if not float(lab[:, 1:].norm(dim=-1).max()) >= GRAY:
        raise ValueError(
            f"{called}: found nothing but gray, expected colors; add some, or lower the saturation for a gray result."
        )
    mask = check_masks(mask, 1, "mask")
    palette = Palette(lab[:, 1:], lab[:, 0] if by_lightness else None, None if mask is None else mask[0].cpu())
    return empty(palettes=(palette,))


def merged_memories(memories: Mapping[str, ColorMemory], weights: tuple[float, ...] = ()) -> ColorMemory:
    """Several memories as one.

    :param memories: by what the user calls them.
    :param weights: how much each counts; () for all alike, one for all.
    :raises ValueError: memories that were not made alike, or another number of weights.
    """
    weights = weights * len(memories) if len(weights) == 1 else weights or (1.0,) * len(memories)
    if len(weights) != len(memories):
        raise ValueError(
            f"weights: found {len(weights)} for {len(memories)} memories, expected one each; leave some out."
        )
    first = next((memory.made for memory in memories.values() if memory.made is not None), None)
    for name, memory in memories.items():
        if first is not None and memory.made is not None:
            memory.made.check(first, name)
    return merged([memory.weighted(weight) for memory, weight in zip(memories.values(), weights, strict=True)])


def color_by_memory(
    network: FeatureSource,
    inputs: Tensor,
    memory: ColorMemory,
    settings: MemorySettings,
    *,
    mask: Tensor | None = None,
    fallback: Tensor | None = None,
    features: Features | None = None,
    device: torch.device | None = None,
) -> MemoryResult:
    """Color gray pictures by a memory, all in one model call.

    :param inputs: (B, H, W, 3) in 0..1; only their lightness is used.
    :param mask: (1 or B, H, W), where color may go.
    :param fallback: (1 or B, *, *, 3), another coloring, for where the memory is not sure.
    :param features: of an earlier result for the same inputs; then the network is not run.
    :param device: where the memory is asked; None is where the features are.
    :raises ValueError: a memory of another model, masks or pictures that do not fit.
    """
    inputs = as_picture(inputs, "input")
    fallback = check_inputs(network, inputs, memory, settings, mask=mask, fallback=fallback)
    gray = desaturate(inputs)
    if memory.keys is not None and features is None:
        features = network.features(gray)
    if features is not None and features.pictures != len(inputs):
        raise ValueError(
            f"features: found those of {features.pictures} picture(s), expected {len(inputs)}; use the features "
            "of these."
        )
    parts = [
        _colored(
            gray[i : i + 1].cpu().float(),
            None if features is None else features.take(slice(i, i + 1)),
            memory,
            settings,
            None if mask is None else mask[i % len(mask)][None].cpu(),
            None if fallback is None else fallback[i % len(fallback)][None].cpu().float(),
            device,
        )
        for i in range(len(inputs))
    ]
    images, confidence, source = (torch.cat(each) for each in zip(*parts, strict=True))
    return MemoryResult(images.to(inputs), confidence, source, features)


def check_inputs(
    network: FeatureSource,
    inputs: Tensor,
    memory: ColorMemory,
    settings: MemorySettings,
    *,
    mask: Tensor | None = None,
    fallback: Tensor | None = None,
) -> Tensor | None:
    """Whether everything fits, before any model call. Parameters as for :func:`color_by_memory`.

    :returns: the fallback, checked.
    :raises ValueError: it does not.
    """
    if memory.made is not None:
        memory.made.check(Made(network.fingerprint, network.spaces, settings.features.context, network.name))
    elif not memory.marks and not memory.palettes:
        raise ValueError("memory: found nothing in it, expected a reference, strokes or a palette; connect one.")
    check_masks(mask, len(inputs), "mask")
    if fallback is not None:
        fallback = as_picture(fallback, "fallback")
        check_count(len(fallback), len(inputs), "fallback")
    return fallback


def color_in_batches(
    network: FeatureSource,
    inputs: Tensor,
    memory: ColorMemory,
    settings: MemorySettings,
    out_of_memory: Callable[[Exception], bool],
    *,
    mask: Tensor | None = None,
    fallback: Tensor | None = None,
    features: Features | None = None,
    device: torch.device | None = None,
) -> Iterator[MemoryResult]:
    """Color pictures, at most ``settings.batch`` in one model call. Parameters as for :func:`color_by_memory`."""
    check_inputs(network, as_picture(inputs, "input"), memory, settings, mask=mask, fallback=fallback)

    def work(part: slice) -> MemoryResult:
        masks, other = part_of(mask, part), part_of(fallback, part)
        kept = None if features is None else features.take(part)
        return color_by_memory(
            network, inputs[part], memory, settings, mask=masks, fallback=other, features=kept, device=device
        )

    for _, result in in_batches(len(inputs), settings.batch, work, out_of_memory):
        yield result


def joined_results(parts: Sequence[MemoryResult]) -> MemoryResult:
    """Results of several batches as those of one, without features."""
    images, confidence, source = (
        torch.cat(each) for each in zip(*((part.images, part.confidence, part.source) for part in parts), strict=True)
    )
    return MemoryResult(images, confidence, source, None)


def _colored(
    gray: Tensor,
    features: Features | None,
    memory: ColorMemory,
    settings: MemorySettings,
    mask: Tensor | None,
    fallback: Tensor | None,
    device: torch.device | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Picture (1, H, W, 3), confidence (1, H, W) and source (1, H, W) of one gray picture."""
    lightness = luminance(gray)
    size = size_of(gray)
    # what was painted on this very picture is laid over the answer of everything else
    own = [mark for mark in memory.marks if mark.are_of(lightness[0])]
    chroma, sure, source = _answer(features, memory.without_entries([m.source for m in own]), settings, size, device)
    chroma = at_size_of(lightness[..., None], chroma, "guided")
    if fallback is not None and settings.fallback_below > 0:
        other = rgb_to_lab(resize(fallback, size))[..., 1:]
        chroma = torch.lerp(other, chroma, trust(sure, settings.fallback_below)[..., None])
    chroma = chroma * settings.saturation  # painted colors are as they are
    for mark in own:
        laid, share = overlaid(chroma[0], mark, settings.reach)
        chroma, sure = laid[None], torch.maximum(sure, share[None])
        source = torch.where(share[None] > 0.5, mark.source, source)
    chroma = bounded(chroma[0], lightness[0], memory.palettes)[None]
    return merge_chroma(chroma, gray, mask=mask), sure, source


def _answer(
    features: Features | None,
    memory: ColorMemory,
    settings: MemorySettings,
    size: tuple[int, int],
    device: torch.device | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Chroma (1, h, w, 2) on the features' grid; confidence and source, (1, H, W), at the picture's size."""
    if features is None or not len(memory):
        return torch.zeros(1, *size, 2), torch.zeros(1, *size), torch.full((1, *size), -1)
    grid = features.grid
    answer = answered(features, memory, settings, device)
    found = answer.found
    sure = confidence(found.spread).view(1, *grid)
    source = found.source.view(1, 1, *grid)
    full = F.interpolate(source.float(), size, mode="nearest-exact").long()[:, 0]
    return answer.chroma, full_size(sure, size).clamp(0, 1), full


def source_picture(gray: Tensor, source: Tensor) -> Tensor:
    """Which source colors come from, as a picture: one hue for each, gray where there is none.

    Hues are a golden angle apart, so that those of neighboring numbers differ most.

    :param gray: (B, H, W, 3) in 0..1; only its lightness is used.
    :param source: (B, H, W) int64, numbers of sources; -1 for none.
    :returns: (B, H, W, 3) float32.
    """
    lightness = 30 + 0.5 * luminance(gray.cpu().float())
    angle = source.float() * (math.pi * (3 - math.sqrt(5)))
    chroma = torch.stack([angle.cos(), angle.sin()], -1) * (_HUE * (source >= 0))[..., None]
    return lab_to_rgb(torch.cat([lightness[..., None], chroma], -1)).clamp(0, 1)
