"""Two sources of color for one picture: the reference where attention is sure of its match, another one elsewhere.

Exemplar colorization takes colors from the nearest look-alike when the reference does not show a thing at all (Kosugi
2025, arXiv 2505.15812, names pairs without semantic correspondence as its limit). There, attention is spread over the
reference; where it is, an automatic colorization of the input can step in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention.correspondence import confidence
from ..attention.layers import Layer, LayerInfo, select_layers
from ..attention.token_masks import tokens_in_mask
from ..attention.union import united
from ..color import check_count, check_masks, chroma_of, desaturate, merge_chroma, resize
from ..color.batches import Batches, freed
from ..color.heat import over_picture
from ..color.sizes import size_of
from ..diffusion.inversion import Inversion
from ..settings import Settings, share
from .attention_map import shared_layers

#: Share of the threshold over which one source passes into the other.
SOFTNESS = 0.25


@dataclass(frozen=True)
class ConfidenceBlendSettings(Settings):
    """When the fallback's colors are taken."""

    fallback_below: float = share(
        0.3,
        "Confidence below which the fallback's colors are used. 0 never uses them, 1 nearly everywhere. From three "
        "quarters of this value to the value itself the two pass into each other. Look at picture to choose it.",
    )


@dataclass(frozen=True)
class ConfidenceBlend:
    """A picture in colors of two sources.

    :param images: (B, H, W, 3) in 0..1.
    :param from_reference: (B, H, W) in 0..1, how much of the color is the reference's.
    :param shown: (B, H, W, 3), the confidence over the gray picture.
    """

    images: Tensor
    from_reference: Tensor
    shown: Tensor


def confidence_blend(
    color_image: Tensor,
    fallback: Tensor,
    source: Inversion,
    target: Inversion,
    settings: ConfidenceBlendSettings,
    *,
    reference_mask: Tensor | None = None,
    several: Sequence[float] | None = None,
    device: torch.device | None = None,
    out_of_memory: Callable[[Exception], bool] = freed,
) -> ConfidenceBlend:
    """Keep a picture's colors where attention is sure of its match, and take another's elsewhere.

    :param color_image: (B, H, W, 3) in 0..1, colored by the reference.
    :param fallback: (1 or B, *, *, 3) in 0..1, colored in another way.
    :param source: inversion of the inputs; ``target`` of the reference, as for :func:`match_confidence`, as are
        ``device`` and ``out_of_memory``.
    :param several: weights of references that all serve every picture, () for all alike; None where each has one.
    :raises ValueError: numbers of pictures that do not fit, or inversions without what is needed.
    """
    if source.pictures != len(color_image):
        raise ValueError(
            f"input_inversion: found {source.pictures} inverted picture(s), expected {len(color_image)}, as many as "
            "color_image has; connect the inversion of these pictures (Exemplar Colorize keeps that of its first batch "
            "only: raise its batch)."
        )
    check_count(len(fallback), len(color_image), "fallback")
    check_masks(reference_mask, target.pictures, "reference_mask")
    bias = None
    if several is None:
        check_count(target.pictures, len(color_image), "reference_inversion")
    else:
        masks = () if reference_mask is None else reference_mask.expand(target.pictures, -1, -1).split(1)
        weights = tuple(several) * (target.pictures if len(several) == 1 else 1)
        union = united([(target.bank, target.bank)], masks, weights)
        target, reference_mask, bias = replace(target, bank=union.color), None, union.bias
    sure = match_confidence(source, target, reference_mask, bias=bias, device=device, out_of_memory=out_of_memory)
    size = size_of(color_image)
    shown = over_picture(desaturate(color_image).cpu(), full_size(sure, size))
    from_reference = full_size(trust(sure, settings.fallback_below), size)
    if settings.fallback_below == 0:
        return ConfidenceBlend(color_image, from_reference, shown)
    chroma = blended_chroma(color_image, fallback, from_reference)
    return ConfidenceBlend(merge_chroma(chroma, color_image), from_reference, shown)


def match_confidence(
    source: Inversion,
    target: Inversion,
    reference_mask: Tensor | None = None,
    *,
    bias: Mapping[Layer, Tensor] | None = None,
    device: torch.device | None = None,
    out_of_memory: Callable[[Exception], bool] = freed,
) -> Tensor:
    """How sure the attention of each picture is of its match, at the noisiest kept step.

    :param source: the inputs' inversion with kept q; ``target`` the reference's (best: without its colors) with kept k.
    :param reference_mask: (1 or B, H, W), which parts of the reference count (those above one half).
    :param bias: of the logits of the reference's tokens, where it is several of unlike weight (``attention.union``).
    :param device: where to compute, layer by layer (None: where the features are).
    :param out_of_memory: whether an error says that memory ran out: then it is done for fewer tokens at once.
    :returns: (B, h, w) float32 on the CPU, 0..1: 0 where attention is spread evenly, 1 where it rests on one token. The
        grid is that of the coarse layers, which match things; without those, of the coarsest that were kept.
    :raises ValueError: no layer has the inputs' q and the reference's k.
    """
    layers = _matching_layers(source, target)
    sigma = source.bank.sigmas[0]
    grid = source.bank.grid(layers[0].layer)
    total = torch.zeros(source.pictures, *grid)
    for info in layers:
        q = source.bank.get(sigma, info.layer, "q")
        k = target.bank.get(target.bank.nearest(sigma), info.layer, "k")
        tokens = None if reference_mask is None else tokens_in_mask(reference_mask, target.bank.grid(info.layer))
        for picture in range(source.pictures):
            keys = k[picture % len(k)].to(device or k.device)
            if tokens is not None:
                keys = keys[tokens[picture % len(tokens)].to(keys.device)]
            more = None if bias is None else bias[info.layer]
            sure = _sure(q[picture % len(q)].to(keys.device), keys, info.heads, out_of_memory, more)
            total[picture] += full_size(sure.unflatten(0, source.bank.grid(info.layer))[None], grid)[0]
    return total / len(layers)


def _sure(
    q: Tensor, k: Tensor, heads: int, out_of_memory: Callable[[Exception], bool], bias: Tensor | None = None
) -> Tensor:
    """``attention.correspondence.confidence`` for as many tokens at once as memory allows, (N,) on the CPU."""
    some = Batches(len(q), out_of_memory, "token(s)")
    parts = some.of(len(q), lambda part: confidence(q[part], k, heads, bias))
    return torch.cat([sure.float().cpu() for _, sure in parts])


def trust(sure: Tensor, below: float) -> Tensor:
    """Share of the reference's color: 1 where the confidence is at least ``below``, falling softly to 0 under it.

    :param sure: any shape, 0..1.
    :param below: 0 trusts the reference everywhere.
    """
    if below <= 0:
        return torch.ones_like(sure)
    share = ((sure / below - (1 - SOFTNESS)) / SOFTNESS).clamp(0, 1)
    return share * share * (3 - 2 * share)


def blended_chroma(
    color_image: Tensor,
    fallback: Tensor,
    share: Tensor,
    statistics_from: Tensor | None = None,
    statistics_strength: float = 1.0,
) -> Tensor:
    """Chroma of two pictures, mixed from place to place.

    :param color_image: (B, h, w, 3) in 0..1.
    :param fallback: (1 or B, *, *, 3) in 0..1, resized to the first.
    :param share: (B, *, *) in 0..1, of ``color_image``.
    :param statistics_from: as in ``color.merge_luminance``, for ``color_image`` only.
    :returns: (B, h, w, 2) float32 on the CPU, a and b in Lab units.
    """
    return mixed_chroma(chroma_of(color_image, statistics_from, statistics_strength), fallback, share)


def mixed_chroma(chroma: Tensor, fallback: Tensor, share: Tensor) -> Tensor:
    """Chroma, (B, h, w, 2) in Lab units, and that of another picture, mixed as :func:`blended_chroma` does."""
    size = size_of(chroma)
    other = chroma_of(resize(fallback.cpu(), size))
    return torch.lerp(other, chroma, full_size(share.cpu(), size)[..., None])


def _matching_layers(source: Inversion, target: Inversion) -> tuple[LayerInfo, ...]:
    """The coarse layers of those that both sides kept; the coarsest ones if none of them is."""
    kept = shared_layers(source, target, "all")
    coarse = select_layers("coarse", source.layers) if _has_coarse(source.layers) else ()
    chosen = tuple(info for info in kept if info in coarse)
    return chosen or tuple(info for info in kept if info.downscale == max(i.downscale for i in kept))


def _has_coarse(infos: tuple[LayerInfo, ...]) -> bool:
    return len({info.downscale for info in infos if info.layer.block == "output"}) > 1


def full_size(values: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, h, w) -> (B, H, W), smooth."""
    if tuple(values.shape[1:]) == tuple(size):
        return values
    return F.interpolate(values.float()[:, None], tuple(size), mode="bilinear", antialias=True)[:, 0]
