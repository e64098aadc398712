"""Pictures of where attention looks, from two inversions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention.correspondence import correspond, heat
from ..attention.layers import LayerInfo, select_layers
from ..color import resize
from ..color.heat import heat_overlay
from ..diffusion.inversion import Inversion


@dataclass(frozen=True)
class AttentionMaps:
    """:param shown: (1, H, W', 3), the input with the place that looks, beside the reference with where it looks.
    :param heat: (1, h, w), attention on the reference, largest value 1.
    :param carried: (1, H, W, 3), the reference carried over to the input.
    :param confidence: (1, H, W) in 0..1.
    """

    shown: Tensor
    heat: Tensor
    carried: Tensor
    confidence: Tensor


def attention_maps(
    source: Inversion,
    target: Inversion,
    image: Tensor,
    reference: Tensor,
    *,
    point: tuple[float, float] | None = None,
    region: Tensor | None = None,
    layers: str = "coarse",
    position: float = 0.0,
    carry: str = "soft",
    picture: int = 0,
) -> AttentionMaps:
    """Where a place of the input looks in the reference, and what attention carries from there to every place.

    :param source: the input's inversion with kept q; ``target`` the reference's with kept k.
    :param image: (1, H, W, 3); ``reference`` (1, h, w, 3).
    :param point: (x, y) in 0..1 to look from; None takes the place that is surest of its match.
    :param region: (1, H', W') mask to look from instead.
    :param layers: layers to average over, see ``attention.layers``.
    :param position: share of the kept steps, 0 is the noisiest.
    :param carry: ``soft`` (weighted mean) or ``hard`` (best match).
    :param picture: which picture of the inversions.
    :raises ValueError: no layer has what is needed, or an empty region.
    """
    chosen = shared_layers(source, target, layers)
    sigmas = source.bank.sigmas
    sigma = sigmas[min(int(position * len(sigmas)), len(sigmas) - 1)]
    pairs, carried, confidence = [], [], []
    for info in chosen:
        here, there = source.bank.grid(info.layer), target.bank.grid(info.layer)
        q = _kept(source, sigma, info, "q", picture)
        k = _kept(target, target.bank.nearest(sigma), info, "k", picture)
        pairs.append((info, q, k, here, there))
        match = correspond(q, k, info.heads, resize(reference, there)[0].flatten(0, 1))
        colors = match.soft if carry == "soft" else match.hard
        carried.append(_spread(colors, here, image.shape[1:3], smooth=carry == "soft"))
        confidence.append(_spread(match.confidence[:, None], here, image.shape[1:3]))
    sure = torch.stack(confidence).mean(0)[..., 0].clamp(0, 1)
    if point is None and region is None:
        point = _surest(sure)

    heats = []
    for info, q, k, here, there in pairs:
        weight = _query_weight(here, point, region)
        heats.append(_spread(heat(q, k, info.heads, weight)[:, None], there, reference.shape[1:3]))
    heat_map = torch.stack(heats).mean(0)[..., 0]
    heat_map = heat_map / heat_map.amax().clamp_min(1e-12)
    shown = heat_overlay(image, reference, heat_map, point if region is None else None, region)
    return AttentionMaps(shown, heat_map, torch.stack(carried).mean(0).clamp(0, 1), sure)


def shared_layers(source: Inversion, target: Inversion, expression: str) -> tuple[LayerInfo, ...]:
    """Layers of the expression of which the input kept q and the reference k.

    :raises ValueError: there is none.
    """
    with_q = {layer for _, layer, name, _ in source.bank.items() if name == "q"}
    with_k = {layer for _, layer, name, _ in target.bank.items() if name == "k"}
    chosen = tuple(i for i in select_layers(expression, source.layers) if i.layer in with_q & with_k)
    if not chosen:
        raise ValueError(
            f"None of the layers '{expression}' has both the input's q and the reference's k. Kept q: "
            f"{', '.join(sorted(at.name for at in with_q)) or 'none'}; kept k: "
            f"{', '.join(sorted(at.name for at in with_k)) or 'none'}. Connect the gray reference's inversion, choose "
            "other layers, or keep more with Attention Capture."
        )
    return chosen


def _kept(inversion: Inversion, sigma: float, info: LayerInfo, letter: str, picture: int) -> Tensor:
    kept = inversion.bank.get(sigma, info.layer, letter)
    return kept[picture % kept.shape[0]]


def _surest(confidence: Tensor) -> tuple[float, float]:
    """(x, y) of the largest confidence, (1, H, W), away from the border: corners match corners, which shows nothing."""
    _, height, width = confidence.shape
    rows, columns = height // 8, width // 8
    inner = torch.zeros_like(confidence)
    inner[:, rows : height - rows, columns : width - columns] = 1
    at = int(((confidence + 1) * inner).flatten().argmax())
    return (at % width + 0.5) / width, (at // width + 0.5) / height


def _query_weight(grid: tuple[int, int], point: tuple[float, float] | None, region: Tensor | None) -> Tensor:
    """(N,): the tokens to look from."""
    if region is not None:
        return F.adaptive_avg_pool2d(region.float()[None], grid).flatten()
    rows, columns = grid
    weight = torch.zeros(rows, columns)
    weight[min(int(point[1] * rows), rows - 1), min(int(point[0] * columns), columns - 1)] = 1
    return weight.flatten()


def _spread(tokens: Tensor, grid: tuple[int, int], size, smooth: bool = True) -> Tensor:
    """(N, c) on a grid -> (1, H, W, c)."""
    channels_first = tokens.float().cpu().unflatten(0, grid).movedim(-1, 0)[None]
    mode = {"mode": "bilinear", "align_corners": False} if smooth else {"mode": "nearest"}
    return F.interpolate(channels_first, size=tuple(size), **mode).movedim(1, -1)
