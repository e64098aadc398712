"""What gives features to color memories in ComfyUI: a MODEL's UNet, or a CLIP_VISION (DINOv2, DINOv3, SigLIP, CLIP)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import comfy.model_management
import torch
from torch import Tensor

from ...files.tensors import digest
from ...memory.entries import ColorMemory
from ...memory.features import FeatureSource
from ...pipelines.encoder_features import (
    EncoderFeatures,
    as_written,
    blocks_of,
    enlarged_positions,
    recommended_for,
    watched,
)
from ...pipelines.memory_features import ModelFeatures
from ...pipelines.memory_settings import FeatureSettings
from .host import ComfyHost
from .model import file_name
from .recommended import recommended
from .runs import stop_if_canceled

if TYPE_CHECKING:
    from ...pipelines.encoder_features import Encoder

#: ComfyUI's kinds of CLIP_VISION -> what this pack calls them, and where their patches become tokens.
_KINDS = {
    "clip_vision_model": ("CLIP", "vision_model.embeddings.patch_embedding"),
    "siglip_vision_model": ("SigLIP", "vision_model.embeddings.patch_embedding"),
    "siglip2_vision_model": ("SigLIP 2", "vision_model.embeddings.patch_embedding"),
    "dinov2": ("DINOv2", "embeddings.patch_embeddings.projection"),
    "dinov3": ("DINOv3", "embeddings.patch_embeddings"),
}
#: Those whose learned positions are for one size, and where they stand: ComfyUI fits the others' to the picture itself.
_FIXED = ("CLIP", "SigLIP")
_POSITIONS = "vision_model.embeddings.position_embedding.weight"
#: Tensors of a token's width, of float32, that a block holds at once, roughly.
_WORKING = 16


def features_of(
    network: Any,
    settings: FeatureSettings,
    *,
    vae: Any = None,
    conditioning: list | None = None,
    memory: ColorMemory | None = None,
    node: str = "Exemplar Color Memory",
) -> FeatureSource:
    """What gives features: a CLIP_VISION, or a MODEL with its VAE and prompt.

    :param vae: with ``conditioning``, of a MODEL; a CLIP_VISION needs neither.
    :param memory: that a CLIP_VISION is to ask: it is read at the blocks that the memory was written from.
    :param node: display name of the asking node, for messages.
    :raises ValueError: neither of both, or layers that it does not have.
    """
    if hasattr(network, "get_model_object"):
        return ModelFeatures(ComfyHost(network, conditioning or [], vae, name=node), settings, file_name(network))
    check_encoder(network, node)
    encoder = ComfyEncoder(network)
    return EncoderFeatures(encoder, settings if memory is None else as_written(settings, memory, encoder.fingerprint))


def memory_recommended(network: Any, node: str = "Exemplar Color Memory") -> Mapping[str, Any]:
    """What a MODEL or a CLIP_VISION recommends for color memories, by the settings' names.

    :raises ValueError: neither of both.
    """
    if hasattr(network, "get_model_object"):
        return recommended(network, "memory")
    check_encoder(network, node)
    return recommended_for(ComfyEncoder(network))


def check_encoder(clip_vision: Any, node: str, name: str = "clip_vision") -> None:
    """Whether something is a CLIP_VISION that gives features of places.

    :param node: display name of the asking node; ``name`` is its input's. Messages start with them.
    :raises ValueError: it is not; says what was found.
    """
    kind = getattr(clip_vision, "model_type", None)
    if kind not in _KINDS or not hasattr(clip_vision, "encode_image"):
        found = "nothing" if clip_vision is None else type(clip_vision).__name__
        found += f" of the type {kind!s:.40}" if kind else ""
        raise ValueError(
            f"{node}: {name}: found {found}, expected a CLIP_VISION of DINOv2, DINOv3, SigLIP or CLIP; connect Load "
            "CLIP Vision with one of those files."
        )


class ComfyEncoder:
    """A CLIP_VISION that was checked, as an encoder of pictures of any size (see ``pipelines.encoder_features``).

    Its own way is a square of one size, cropped or squeezed, behind one block; and none at all for DINOv3, whose class
    has no block but the last. Here pictures keep their shape and as many patches as are asked for.
    """

    def __init__(self, clip_vision: Any) -> None:
        self.clip_vision, self.network = clip_vision, clip_vision.model
        self.family, place = _KINDS[clip_vision.model_type]
        self._first = self.network.get_submodule(place).weight
        self.blocks = blocks_of(self.network)

    @cached_property
    def fingerprint(self) -> str:
        """Family and a digest of what makes tokens of patches."""
        return f"{self.family}-{digest(self._first)}"

    @property
    def name(self) -> str:
        """Family and size: a CLIP_VISION doesn't know its file."""
        return f"{self.family} with {self.depth} blocks of {self.width}"

    @property
    def patch(self) -> int:
        """Pixels of a patch's side."""
        shape = self._first.shape
        return shape[-1] if len(shape) == 4 else math.isqrt(shape[1] // 3)

    @property
    def side(self) -> int:
        """Pixels of its pictures' sides; 0 where any will do."""
        return max(0, self.clip_vision.image_size)

    @property
    def width(self) -> int:
        """Channels of a token."""
        return len(self._first)

    @property
    def depth(self) -> int:
        """How many blocks there are."""
        return len(self.blocks)

    @property
    def extra(self) -> int:
        """Class and register tokens."""
        if self.family.startswith("SigLIP"):
            return 0
        registers = getattr(self.network.embeddings, "register_tokens", None) if self.family == "DINOv3" else None
        return 1 if registers is None else 1 + registers.shape[1]

    @property
    def normed(self) -> tuple[Sequence[float], Sequence[float]]:
        """Mean and spread of its pictures' channels."""
        return self.clip_vision.image_mean, self.clip_vision.image_std

    def tokens(self, pixels: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """(B, 3, H, W), normed -> tokens behind each block, on the device that they were made on."""
        stop_if_canceled()
        grid = (pixels.shape[2] // self.patch, pixels.shape[3] // self.patch)
        tokens = len(pixels) * (self.extra + grid[0] * grid[1])
        needed = tokens * self.width * 4 * (_WORKING + len(blocks))
        comfy.model_management.load_models_gpu([self.clip_vision.patcher], memory_required=needed)
        pixels = pixels.to(self.clip_vision.load_device)
        with torch.no_grad(), watched([self.blocks[index] for index in blocks]) as found:
            if self.family in _FIXED:
                # the other positions stand in the network for this one call
                positions = enlarged_positions(self.network.get_parameter(_POSITIONS), grid, self.extra)
                torch.func.functional_call(self.network, {_POSITIONS: positions}, (), {"pixel_values": pixels})
            else:
                self.network(pixel_values=pixels)
        return found


if TYPE_CHECKING:  # the contract, checked
    _: type[Encoder] = ComfyEncoder
