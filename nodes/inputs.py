"""What comes in through a node's sockets: one check for each kind of thing, naming the node and the input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..color import as_mask, as_picture
from .widgets import title

#: What no latent reaches: pure noise of the highest level that any schedule has, by hundreds.
_LARGEST = 1e8

#: What the values of a socket type can do, or what their class is called, and how the user gets one.
_KINDS: dict[str, tuple[str, str]] = {
    "MODEL": ("get_model_object", "a loader of models"),
    "CLIP": ("tokenize", "a loader of models"),
    "VAE": ("spacial_compression_encode", "a loader of models"),
    "INVERSION": ("Inversion", "DDIM Inversion"),
    "PIVOTS": ("Pivots", "Pivot Inversion"),
    "DDCOLOR": ("ComfyDDColor", "Load DDColor"),
    "DEADIFF": ("ComfyDEADiff", "Load DEADiff"),
    "DEADIFF_TOKENS": ("DEADiffTokens", "DEADiff Encode"),
    "LCAD_VAE": ("ComfyLCADVAE", "Load L-CAD"),
    "PHOTOGRAPH_FACTS": ("FileFacts", "Load Photograph"),
    "REFERRING": ("ComfyReferring", "Load CLIPSeg"),
}


def expect(node: type[io.ComfyNode], **sockets: Any) -> None:
    """Whether what came in is of the sockets' types: a link without a type carries anything.

    :param sockets: inputs by their ids; IMAGE, MASK, LATENT and CONDITIONING have checks of their own.
    :raises ValueError: something else, or nothing where the input must be connected.
    """
    known = {item.id: item for item in node.define_schema().inputs}
    for name, value in sockets.items():
        kind = known[name].get_io_type()
        feature, source = _KINDS[kind]
        if value is None and known[name].optional:
            continue
        if not hasattr(value, feature) and feature not in {parent.__name__ for parent in type(value).__mro__}:
            found = "nothing" if value is None else type(value).__name__
            raise ValueError(f"{title(node)}: {name}: found {found}, expected {kind}; connect {source}.")


def picture(node: type[io.ComfyNode], image: Any, name: str) -> Tensor:
    """(B, H, W, 3) of an IMAGE, see ``color.as_picture``.

    :raises ValueError: not a picture, or empty, NaN, or on another scale than 0..1.
    """
    return as_picture(image, f"{title(node)}: {name}")


def optional_picture(node: type[io.ComfyNode], image: Any, name: str) -> Tensor | None:
    """The same of an input that may be left unconnected."""
    return None if image is None else picture(node, image, name)


def optional_mask(node: type[io.ComfyNode], mask: Any, name: str) -> Tensor | None:
    """(B, H, W) of a MASK, see ``color.as_mask``; None where the input is unconnected.

    :raises ValueError: not a mask, or empty, NaN, or on another scale than 0..1.
    """
    return as_mask(mask, f"{title(node)}: {name}")


def mask(node: type[io.ComfyNode], mask: Any, name: str) -> Tensor:
    """The same of an input that must be connected."""
    made = optional_mask(node, mask, name)
    if made is None:
        raise ValueError(
            f"{title(node)}: {name}: found nothing, expected a mask (B, H, W); look at the node before it."
        )
    return made


def latent_samples(node: type[io.ComfyNode], latent: Any, name: str) -> Tensor:
    """(B, C, h, w) of a LATENT.

    :raises ValueError: not a picture's latent, or not finite.
    """
    asked = f"{title(node)}: {name}"
    samples = latent.get("samples") if isinstance(latent, Mapping) else None
    if not isinstance(samples, Tensor):
        found = type(latent if samples is None else samples).__name__
        raise ValueError(f"{asked}: found {found}, expected a LATENT with samples; look at the node that made it.")
    if samples.ndim != 4 or 0 in samples.shape or not samples.is_floating_point():
        raise ValueError(
            f"{asked}: found {samples.dtype} of shape {tuple(samples.shape)}, expected a picture's latent, floats (B, "
            "C, h, w); look at the node that made it."
        )
    if not all(abs(value) < _LARGEST for value in torch.stack(torch.aminmax(samples)).tolist()):
        raise ValueError(
            f"{asked}: found NaN, infinite or huge values, expected a picture's latent; look at the node that made it."
        )
    return samples


def without_mask(node: type[io.ComfyNode], latent: Mapping[str, Any], name: str, instead: str) -> None:
    """Whether a LATENT is free of a noise mask, which the node could not heed.

    :param instead: where such a mask belongs, for the message.
    :raises ValueError: it has one that keeps any place.
    """
    noise_mask = latent.get("noise_mask")
    if isinstance(noise_mask, Tensor) and bool((noise_mask < 1).any()):
        raise ValueError(
            f"{title(node)}: {name}: found a noise mask (Set Latent Noise Mask, an inpainting latent), expected one "
            f"without, since the whole picture is inverted; take it off, and {instead}."
        )


def text(node: type[io.ComfyNode], value: Any, name: str) -> str:
    """A text that is no setting.

    :raises ValueError: something else, through a link.
    """
    if not isinstance(value, str):
        raise ValueError(f"{title(node)}: {name} is a {type(value).__name__}; expected a text.")
    return value
