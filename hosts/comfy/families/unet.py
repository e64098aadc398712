"""Stable Diffusion 1.x, 2.x and SDXL: ComfyUI's UNetModel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ....attention.families import UNET
from ....attention.layers import Layer, LayerInfo
from .network import Network

#: Prediction types that share the noise schedule of the family.
_SAMPLING = ("EPS", "V_PREDICTION")


def found(network: Any, sampling: Any) -> Network | None:
    """What is known of a UNet of the family.

    :param sampling: the MODEL's ``model_sampling``.
    :returns: None for a network of another kind, or one whose noise is scheduled otherwise.
    """
    parents = {base.__name__ for base in type(sampling).__mro__}
    parts = all(hasattr(network, part) for part in ("input_blocks", "middle_block", "output_blocks"))
    if not parts or not parents & set(_SAMPLING) or "EDM" in parents:
        return None
    layers = unet_layers(network)
    halvings = sum(type(module).__name__ == "Downsample" for block in network.input_blocks for module in block)
    return Network(UNET, layers, "input_blocks.0", unet_context(network), 2**halvings) if layers else None


def unet_layers(network: Any) -> tuple[LayerInfo, ...]:
    """Self-attention layers in network order."""
    layers: list[LayerInfo] = []
    downscale = 1

    def visit(block: str, index: int, modules: Iterable[Any]) -> None:
        nonlocal downscale
        for module in modules:
            kind = type(module).__name__
            if kind == "SpatialTransformer":
                for depth, inner in enumerate(module.transformer_blocks):
                    attn = inner.attn1
                    layers.append(LayerInfo(Layer(block, index, depth), attn.to_q.in_features, attn.heads, downscale))
            elif kind == "Downsample":
                downscale *= 2
            elif kind == "Upsample":
                downscale //= 2

    for index, modules in enumerate(getattr(network, "input_blocks", ())):
        visit("input", index, modules)
    visit("middle", 0, getattr(network, "middle_block", ()))
    for index, modules in enumerate(getattr(network, "output_blocks", ())):
        visit("output", index, modules)
    return tuple(layers)


def unet_context(network: Any) -> int | None:
    """Width of the prompts that it listens to; None where it has no cross-attention."""
    for module in network.modules():
        if type(module).__name__ == "SpatialTransformer":
            attention = getattr(module.transformer_blocks[0], "attn2", None)
            return getattr(getattr(attention, "to_k", None), "in_features", None)
    return None
