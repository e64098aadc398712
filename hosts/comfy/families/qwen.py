"""Qwen-Image: blocks with weights of their own for prompt and picture."""

from __future__ import annotations

from typing import Any

from ....attention.families import QWEN_IMAGE
from .network import Network, in_features, transformer_layers


def found(network: Any) -> Network | None:
    """What is known of a network; None where it is of another kind."""
    from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel

    if type(network) is not QwenImageTransformer2DModel:
        return None
    blocks = network.transformer_blocks
    layers = transformer_layers("double", len(blocks), network.inner_dim, blocks[0].attn.heads, network.patch_size)
    return Network(QWEN_IMAGE, layers, "img_in", in_features(network.txt_in), network.patch_size)
