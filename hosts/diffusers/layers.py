"""Attention layers of a diffusers UNet, in ComfyUI's naming."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...attention.layers import Layer, LayerInfo


def attention_layers(unet: Any) -> dict[str, LayerInfo]:
    """Self-attention processor names of a diffusers UNet, and the layers they are in ComfyUI's naming, in order."""
    found: dict[str, LayerInfo] = {}
    per_level = unet.config.layers_per_block
    levels = len(unet.down_blocks)
    if not isinstance(per_level, int):
        raise ValueError(f"This UNet has {per_level} residual blocks a level; expected one number for all levels.")

    def add(path: str, attentions: Sequence[Any], block: str, first: int, downscale: int) -> None:
        for j, transformer in enumerate(attentions):
            for depth, inner in enumerate(transformer.transformer_blocks):
                attn = inner.attn1
                info = LayerInfo(Layer(block, first + j, depth), attn.to_q.in_features, attn.heads, downscale)
                found[f"{path}{j}.transformer_blocks.{depth}.attn1.processor"] = info

    for i, block in enumerate(unet.down_blocks):
        add(f"down_blocks.{i}.attentions.", getattr(block, "attentions", ()), "input", 1 + i * (per_level + 1), 2**i)
    middle = [a for a in getattr(unet.mid_block, "attentions", ()) if a is not None]
    add("mid_block.attentions.", middle, "middle", 0, 2 ** (levels - 1))
    for i, block in enumerate(unet.up_blocks):
        scale = 2 ** (levels - 1 - i)
        add(f"up_blocks.{i}.attentions.", getattr(block, "attentions", ()), "output", i * (per_level + 1), scale)
    return found
