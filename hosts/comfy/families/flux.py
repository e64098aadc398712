"""Flux.1, Flux.2 and Chroma: blocks with weights of their own for prompt and picture, then blocks that share them."""

from __future__ import annotations

from typing import Any

from ....attention.families import CHROMA, FLUX_1, FLUX_2
from .network import Network, in_features, transformer_layers


def found(network: Any) -> Network | None:
    """What is known of a network; None where it is of another kind.

    Chroma Radiance, which draws pixels, and video models with the same blocks are other classes.
    """
    from comfy.ldm.chroma.model import Chroma
    from comfy.ldm.flux.model import Flux

    if type(network) not in (Flux, Chroma):
        return None
    chroma = type(network) is Chroma
    width, heads, patch = network.hidden_size, network.num_heads, network.patch_size
    skipped = (network.skip_mmdit, network.skip_dit) if chroma else ((), ())
    layers = (
        *transformer_layers("double", len(network.double_blocks), width, heads, patch, skipped[0]),
        *transformer_layers("single", len(network.single_blocks), width, heads, patch, skipped[1]),
    )
    family = CHROMA if chroma else FLUX_2 if getattr(network.params, "global_modulation", False) else FLUX_1
    return Network(family, layers, "img_in", in_features(network.txt_in), patch)
