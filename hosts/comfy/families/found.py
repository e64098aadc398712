"""Which family a MODEL is of, and the one sentence for those that a node can't serve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....attention.families import UNET, Family
from . import anima, flux, lumina, qwen, sd3, unet
from .network import Network

_TRANSFORMERS = (flux.found, qwen.found, lumina.found, sd3.found, anima.found)


def network_of(model: Any) -> Network | None:
    """What is known of a MODEL's network; None for a family that the pack does not know."""
    network = model.get_model_object("diffusion_model")
    sampling = model.get_model_object("model_sampling")
    known = unet.found(network, sampling)
    if known is not None:
        return known
    if not any(base.__name__ == "CONST" for base in type(sampling).__mro__):
        return None  # not flow matching
    return known_network(network)


def known_network(network: Any) -> Network | None:
    """What is known of a transformer; None for one that the pack does not know."""
    return next((known for known in (found(network) for found in _TRANSFORMERS) if known is not None), None)


def require_network(model: Any, node: str, serves: Sequence[Family] = (UNET,)) -> Network:
    """What is known of a MODEL's network, for a node that serves some families.

    :param node: display name of the asking node, for the message.
    :raises ValueError: a MODEL of another family, named; or no MODEL.
    """
    if not hasattr(model, "get_model_object"):
        raise ValueError(
            f"{node}: model: found {type(model).__name__}, expected a MODEL; look at the node that made it."
        )
    known = network_of(model)
    if known is None or known.family not in serves:
        kind = type(model.get_model_object("diffusion_model")).__name__ if known is None else known.family.name
        found = f"{node}: model: found {type(model.model).__name__} ({kind})"
        if tuple(serves) == (UNET,):
            raise ValueError(
                f"{found}, expected a Stable Diffusion 1.x, 2.x or SDXL UNet; load one of those checkpoints."
            )
        *first, last = (family.name for family in serves)
        raise ValueError(f"{found}, expected one of {', '.join(first)} or {last}; load one of those checkpoints.")
    return known


def is_transformer(model: Any) -> bool:
    """Whether a MODEL is one of the transformers that the pack knows."""
    known = network_of(model)
    return known is not None and known.family is not UNET
