"""Anima: the picture attends to itself, and to the prompt apart."""

from __future__ import annotations

from typing import Any

from ....attention.families import ANIMA
from .network import Network, in_features, transformer_layers


def found(network: Any) -> Network | None:
    """What is known of a network; None where it is of another kind."""
    from comfy.ldm.anima.model import Anima

    if type(network) is not Anima:
        return None
    width, heads, patch = network.model_channels, network.num_heads, network.patch_spatial
    layers = transformer_layers("block", len(network.blocks), width, heads, patch)
    return Network(ANIMA, layers, "x_embedder", in_features(network.blocks[0].cross_attn.k_proj), patch)
