"""Z-Image and Lumina 2: blocks that prompt and picture share, after some that refine each of them alone."""

from __future__ import annotations

from typing import Any

from ....attention.families import LUMINA_2, Z_IMAGE
from .network import Network, in_features, transformer_layers


def found(network: Any) -> Network | None:
    """What is known of a network; None where it is of another kind, or draws pixels."""
    from comfy.ldm.lumina.model import NextDiT

    if type(network) is not NextDiT:
        return None
    layers = transformer_layers("double", len(network.layers), network.dim, network.n_heads, network.patch_size)
    padding = getattr(network, "pad_tokens_multiple", None)
    family = LUMINA_2 if padding is None else Z_IMAGE
    context = in_features(network.cap_embedder[1])
    return Network(family, layers, "x_embedder", context, network.patch_size, padding or 1)
