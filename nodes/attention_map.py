"""Seeing where attention looks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from comfy_api.latest import io
from torch import Tensor

from ..attention.correspondence import Correspondence, correspond, heat
from ..attention.layers import LayerInfo, select_layers
from ..color.heat import heat_overlay
from ..diffusion.inversion import Inversion as InversionValue
from ..pipelines.colorize import resize
from .common import CATEGORY, Inversion, picture


class AttentionMap(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarAttentionMap",
            display_name="Attention Map",
            category=CATEGORY,
            description="Shows where a point or a region of the input looks in the reference, and the reference carried "
            "over to the input by attention.",
            search_aliases=["attention heatmap", "correspondence", "where does it look", "attention visualisation"],
            inputs=[
                Inversion.Input("input_inversion", tooltip="With kept q."),
                Inversion.Input("reference_inversion", tooltip="With kept k; the gray reference's shows what the "
                                "gray-to-gray match sees."),
                io.Image.Input("image", tooltip="The input picture."),
                io.Image.Input("reference", tooltip="The reference picture."),
                io.Float.Input("x", default=0.5, min=0.0, max=1.0, step=0.01, round=0.001,
                               tooltip="Where to look from: 0 is the left edge, 1 the right."),
                io.Float.Input("y", default=0.5, min=0.0, max=1.0, step=0.01, round=0.001,
                               tooltip="0 is the top edge, 1 the bottom."),
                io.String.Input("layers", default="coarse", advanced=True,
                                tooltip="Layers to average: coarse ones match things, fine ones match textures."),
                io.Float.Input("position", default=0.0, min=0.0, max=1.0, step=0.05, round=0.001, advanced=True,
                               tooltip="When on the way back to look: 0 is the noisiest kept step, 1 the last."),
                io.Combo.Input("carry", options=["soft", "hard"], default="soft", advanced=True,
                               tooltip="soft averages the reference's colours with the attention weights; hard takes the "
                               "best match of every place."),
                io.Int.Input("picture", default=0, min=0, max=4095, advanced=True, tooltip="Which picture of a batch."),
                io.Mask.Input("mask", optional=True, tooltip="Look from this region instead of the point."),
            ],
            outputs=[
                io.Image.Output(display_name="heat_map", tooltip="Input with the point, reference with its attention."),
                io.Mask.Output(display_name="heat", tooltip="The attention on the reference, largest value 1."),
                io.Image.Output(display_name="correspondence", tooltip="The reference carried over to the input."),
                io.Mask.Output(display_name="confidence", tooltip="White where attention rests on one place."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, input_inversion, reference_inversion, image, reference, x, y, layers="coarse", position=0.0, carry="soft",
        picture=0, mask=None,
    ) -> io.NodeOutput:  # fmt: skip
        return io.NodeOutput(
            *_maps(input_inversion, reference_inversion, image, reference, (x, y), layers, position, carry, picture, mask)
        )


def _maps(source, target, image, reference, point, layers, position, carry, index, mask):
    image, reference = picture(image, "image"), picture(reference, "reference")
    image, reference = image[index % len(image)][None], reference[index % len(reference)][None]
    chosen = shared_layers(source, target, layers)
    sigma = source.bank.sigmas[min(int(position * len(source.bank.sigmas)), len(source.bank.sigmas) - 1)]
    from_region = mask[index % len(mask)][None] if mask is not None else None

    heats, carried, confidence = [], [], []
    for info in chosen:
        q = _kept(source, sigma, info, "q", index)
        k = _kept(target, target.bank.nearest(sigma), info, "k", index)
        here, there = source.bank.grid(info.layer), target.bank.grid(info.layer)
        weight = _query_weight(here, point, from_region)
        heats.append(_picture(heat(q, k, info.heads, weight)[:, None], there, reference.shape[1:3]))
        values = resize(reference, there)[0].flatten(0, 1)
        match: Correspondence = correspond(q, k, info.heads, values)
        colors = match.soft if carry == "soft" else match.hard
        carried.append(_picture(colors, here, image.shape[1:3], smooth=carry == "soft"))
        confidence.append(_picture(match.confidence[:, None], here, image.shape[1:3]))

    heat_map = torch.stack(heats).mean(0)[..., 0]
    heat_map = heat_map / heat_map.amax().clamp_min(1e-12)
    shown = heat_overlay(image, reference, heat_map, point if from_region is None else None, from_region)
    return (
        shown,
        heat_map,
        torch.stack(carried).mean(0).clamp(0, 1),
        torch.stack(confidence).mean(0)[..., 0].clamp(0, 1),
    )


def shared_layers(source: InversionValue, target: InversionValue, expression: str) -> tuple[LayerInfo, ...]:
    """Layers of the expression of which the input kept q and the reference k.

    :raises ValueError: there is none.
    """
    infos = source.layers
    with_q = {layer for _, layer, name, _ in source.bank.items() if name == "q"}
    with_k = {layer for _, layer, name, _ in target.bank.items() if name == "k"}
    chosen = tuple(i for i in select_layers(expression, infos) if i.layer in with_q & with_k) if infos else ()
    if not chosen:
        raise ValueError(
            f"None of the layers '{expression}' has both the input's q and the reference's k. Kept q: "
            f"{', '.join(sorted(at.name for at in with_q)) or 'none'}; kept k: "
            f"{', '.join(sorted(at.name for at in with_k)) or 'none'}. Put Attention Capture before DDIM Inversion."
        )
    return chosen


def _kept(inversion: InversionValue, sigma: float, info: LayerInfo, letter: str, index: int) -> Tensor:
    kept = inversion.bank.get(sigma, info.layer, letter)
    return kept[index % kept.shape[0]]


def _query_weight(grid: tuple[int, int], point: tuple[float, float], mask: Tensor | None) -> Tensor:
    """(N,): the tokens to look from."""
    if mask is not None:
        return F.adaptive_avg_pool2d(mask.float()[None], grid).flatten()
    rows, columns = grid
    weight = torch.zeros(rows, columns)
    weight[min(int(point[1] * rows), rows - 1), min(int(point[0] * columns), columns - 1)] = 1
    return weight.flatten()


def _picture(tokens: Tensor, grid: tuple[int, int], size, smooth: bool = True) -> Tensor:
    """(N, c) on a grid -> (1, H, W, c)."""
    channels_first = tokens.float().cpu().unflatten(0, grid).movedim(-1, 0)[None]
    mode = {"mode": "bilinear", "align_corners": False} if smooth else {"mode": "nearest"}
    return F.interpolate(channels_first, size=tuple(size), **mode).movedim(1, -1)


NODES = [AttentionMap]
