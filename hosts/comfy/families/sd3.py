"""Stable Diffusion 3 and 3.5: blocks with weights of their own for prompt and picture, without rotary positions."""

from __future__ import annotations

from typing import Any

from ....attention.families import SD3
from .network import Network, in_features, transformer_layers


def found(network: Any) -> Network | None:
    """What is known of a network; None where it is of another kind.

    Where the picture's tokens also attend to themselves alone (3.5 medium), the layer is the one with the prompt.
    """
    from comfy.ldm.modules.diffusionmodules.mmdit import MMDiT, OpenAISignatureMMDITWrapper

    if type(network) not in (MMDiT, OpenAISignatureMMDITWrapper) or not hasattr(network, "joint_blocks"):
        return None
    blocks, patch = network.joint_blocks, network.x_embedder.patch_size[0]
    heads = blocks[0].x_block.attn.num_heads
    layers = transformer_layers("double", len(blocks), network.hidden_size, heads, patch)
    return Network(SD3, layers, "x_embedder", in_features(network.context_embedder), patch, named=False)
