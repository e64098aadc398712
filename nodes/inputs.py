"""What comes in through a node's sockets: one check for each kind of thing, naming the node and the input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from comfy_api.latest import io
from torch import Tensor

from ..color import as_picture, check_masks
from ..hosts.comfy.latents import as_latents, check_unmasked
from ..settings import shown
from .widgets import title

Found = TypeVar("Found")

#: What the values of a socket type can do, or what their class is called, and how the user gets one.
_KINDS: dict[str, tuple[str, str]] = {
    "MODEL": ("get_model_object", "a loader of models"),
    "CLIP": ("tokenize", "a loader of models"),
    "CLIP_VISION": ("encode_image", "Load CLIP Vision"),
    "VAE": ("spacial_compression_encode", "a loader of models"),
    "INVERSION": ("Inversion", "DDIM Inversion"),
    "COLOR_MEMORY": ("ColorMemory", "Color Memory"),
    "COLOR_FEATURES": ("PictureFeatures", "Color Features"),
    "VIDEO": ("get_stream_source", "Load Video"),
    "PIVOTS": ("Pivots", "Pivot Inversion"),
    "DDCOLOR": ("ComfyDDColor", "Load DDColor"),
    "DEADIFF": ("ComfyDEADiff", "Load DEADiff"),
    "DEADIFF_TOKENS": ("DEADiffTokens", "DEADiff Encode"),
    "LCAD_VAE": ("ComfyLCADVAE", "Load L-CAD"),
    "PHOTOGRAPH_FACTS": ("FileFacts", "Load Photograph"),
    "REFERRING": ("ComfyReferring", "Load CLIPSeg"),
}
#: Types of the pack's own that can look at themselves.
_CHECKED = ("INVERSION", "PIVOTS", "DEADIFF_TOKENS", "COLOR_MEMORY", "COLOR_FEATURES")


def expect(node: type[io.ComfyNode], **sockets: Any) -> None:
    """Whether what came in is of the sockets' types, whole and finite: a link without a type carries anything.

    :param sockets: inputs by their ids; IMAGE, MASK, LATENT and CONDITIONING have checks of their own.
    :raises ValueError: something else, or nothing where the input must be connected.
    """
    known = {item.id: item for item in node.define_schema().inputs}
    for name, value in sockets.items():
        kind = known[name].get_io_type()
        if value is None and known[name].optional:
            continue
        kinds = kind.split(",")  # of a socket that takes several
        parents = {parent.__name__ for parent in type(value).__mro__}
        if not any(hasattr(value, _KINDS[each][0]) or _KINDS[each][0] in parents for each in kinds):
            found = "nothing" if value is None else type(value).__name__
            sources = " or ".join(_KINDS[each][1] for each in kinds)
            raise ValueError(f"{title(node)}: {name}: found {found}, expected {' or '.join(kinds)}; connect {sources}.")
        if kind in _CHECKED:
            value.check(f"{title(node)}: {name}")


def picture(node: type[io.ComfyNode], image: Any, name: str) -> Tensor:
    """(B, H, W, 3) of an IMAGE, see ``color.as_picture``.

    :raises ValueError: not a picture, or empty, NaN, or on another scale than 0..1.
    """
    return as_picture(image, f"{title(node)}: {name}")


def optional_picture(node: type[io.ComfyNode], image: Any, name: str) -> Tensor | None:
    """The same of an input that may be left unconnected."""
    return None if image is None else picture(node, image, name)


def optional_mask(node: type[io.ComfyNode], mask: Any, name: str, pictures: int = 0) -> Tensor | None:
    """(B, H, W) of a MASK, see ``color.as_mask``; None where the input is unconnected.

    :param pictures: how many there are to have one mask for all, or one for each; 0 where that is not known.
    :raises ValueError: not a mask, or empty, NaN, or on another scale than 0..1; or not as many as pictures.
    """
    return check_masks(mask, pictures, f"{title(node)}: {name}")


def mask(node: type[io.ComfyNode], mask: Any, name: str) -> Tensor:
    """The same of an input that must be connected."""
    made = optional_mask(node, mask, name)
    if made is None:
        raise ValueError(
            f"{title(node)}: {name}: found nothing, expected a mask (B, H, W); look at the node before it."
        )
    return made


def latent_samples(node: type[io.ComfyNode], latent: Any, name: str, *, frames: bool = False) -> Tensor:
    """(B, C, h, w) of a LATENT, see ``hosts.comfy.latents.as_latents``.

    :param frames: with an axis of frames.
    :raises ValueError: not a picture's latent, or not finite.
    """
    return as_latents(latent, f"{title(node)}: {name}", frames=frames)


def without_mask(node: type[io.ComfyNode], latent: Mapping[str, Any], name: str, instead: str) -> None:
    """Whether a LATENT is free of a noise mask, see ``hosts.comfy.latents.check_unmasked``.

    :raises ValueError: it has one that keeps any place.
    """
    check_unmasked(latent, f"{title(node)}: {name}", instead)


def text(node: type[io.ComfyNode], value: Any, name: str) -> str:
    """A text that is no setting.

    :raises ValueError: something else, through a link.
    """
    if not isinstance(value, str):
        raise ValueError(f"{title(node)}: {name} is a {type(value).__name__}; expected a text.")
    return value


def choice(
    node: type[io.ComfyNode],
    name: str,
    value: Any,
    find: Callable[[str], Found],
    unlisted: tuple[type[Exception], ...] = (FileNotFoundError,),
) -> Found:
    """What a name of a list stands for; one that comes through a link was not looked at before.

    :param find: from a name to what it stands for.
    :param unlisted: what it raises for a name that is not listed.
    :raises ValueError: not one of the listed, or nothing that can be read; node and input are named.
    """
    asked = f"{title(node)}: {name}"
    if not isinstance(value, str):
        raise ValueError(f"{asked}: found {shown(value)}, expected one of the listed; choose one.")
    try:
        return find(value)
    except unlisted as error:
        raise ValueError(f"{asked} is {shown(value, 200)}, expected one of the listed: {error}") from None
