"""DEADiff's encoder under ComfyUI's model manager, and where its files are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ... import demo
from ...attention.image_tokens import KINDS, ImageTokens, project_tokens, route
from ...attention.layers import Layer
from ...color.held import Held
from ...color.tensors import FLOATS, check_tensor, is_finite
from ...networks.deadiff.load import DEADiffAdapter, load_deadiff
from ...pipelines.deadiff import (
    AUTO,
    CHUNK,
    DEADiffEncodeSettings,
    DEADiffSettings,
    combine,
    encode,
    parse_weights,
)
from .deadiff_tokens import check_model, fractional_timesteps, install_tokens
from .folders import DEADIFF
from .managed import ManagedNetwork
from .model import attention_layers


@dataclass(frozen=True)
class DEADiffTokens(Held):
    """The type DEADIFF_TOKENS: what references became, and all that a MODEL needs to listen to it.

    :param tokens: kind -> (pictures, tokens, hidden), float32 on the CPU.
    :param projections: layer -> W_ik and W_iv.
    :param hidden: width of the tokens, which is that of prompts.
    :param text_tokens: length of one stretch of prompt.
    :param split: the file's own expressions for semantic and for style layers.
    :param name: of the file that they come from.
    """

    tokens: Mapping[str, Tensor]
    projections: Mapping[Layer, tuple[Tensor, Tensor]]
    hidden: int
    text_tokens: int
    split: tuple[str, str]
    name: str

    def check(self, name: str) -> None:
        """Whether what travels as tokens is that: whole, and finite.

        :param name: what the user calls them; messages start with it.
        :raises ValueError: they are not.
        """
        expected = f"style or semantics, floats (pictures, tokens, {self.hidden})"
        if not self.tokens or set(self.tokens) - set(KINDS):
            raise ValueError(f"{name}: found tokens of {list(self.tokens)}, expected {expected}; use DEADiff Encode.")
        for kind, tensor in self.tokens.items():
            check_tensor(tensor, f"{name}: {kind}", expected)
            shape = tuple(tensor.shape)
            if len(shape) != 3 or 0 in shape or shape[2] != self.hidden or tensor.dtype not in FLOATS:
                raise ValueError(
                    f"{name}: {kind}: found {tensor.dtype} of shape {shape}, expected {expected}; use DEADiff Encode."
                )
        weights = [weight for pair in self.projections.values() for weight in pair]
        if not weights or not is_finite(*self.tokens.values(), *weights):
            raise ValueError(
                f"{name}: found NaN, infinite or huge values, or none, expected {expected}; use DEADiff Encode."
            )

    def joined(self, other: DEADiffTokens) -> DEADiffTokens:
        """These and the other's: one kind from each.

        :raises ValueError: both have the same kind, come from different files, or from different numbers of pictures.
        """
        twice = sorted(set(self.tokens) & set(other.tokens))
        if twice:
            raise ValueError(
                f"tokens: found {' and '.join(twice)} in both sets, expected one of each kind; join style with "
                "semantics. For several references of one kind, put them into one batch and choose how they are "
                "combined."
            )
        if self.name != other.name or self.hidden != other.hidden:
            raise ValueError(
                f"tokens: found some of {other.name}, {other.hidden} wide, expected those of {self.name}, "
                f"{self.hidden} wide; make both with one file."
            )
        counts = {len(t) for t in (*self.tokens.values(), *other.tokens.values())} - {1}
        if len(counts) > 1:
            raise ValueError(
                f"tokens: found some for {' and '.join(map(str, sorted(counts)))} pictures, expected one number; use "
                "as many, or one."
            )
        return replace(self, tokens={**other.tokens, **self.tokens})

    def edit_for(self, model: Any, settings: DEADiffSettings, mask: Tensor | None, node: str) -> ImageTokens:
        """The edit for a MODEL; ``auto`` layers are the file's own.

        :param mask: (B or 1, H, W) in 0..1, where in the picture the tokens act; None is everywhere.
        :param node: display name of the asking node, for messages.
        :raises ValueError: a MODEL of another family, or layers that name nothing.
        """
        check_model(model, {layer: len(pair[0]) for layer, pair in self.projections.items()}, self.hidden, node)
        expressions = (settings.semantic_layers, settings.style_layers)
        split = [
            taught if expression.strip() == AUTO else expression
            for taught, expression in zip(self.split, expressions, strict=True)
        ]
        projected = project_tokens(self.tokens, self.projections, route(attention_layers(model), *split))
        return ImageTokens(projected, settings.weight, settings.weighting, mask, self.text_tokens)


class ComfyDEADiff(ManagedNetwork):
    """An adapter whose encoder ComfyUI loads, offloads and counts. This is the type DEADIFF.

    :param adapter: on the CPU.
    """

    def __init__(self, adapter: DEADiffAdapter) -> None:
        mm = comfy.model_management
        super().__init__(adapter.encoder, mm.text_encoder_device(), mm.text_encoder_offload_device())
        self.adapter = adapter

    def tokens(self, images: Tensor, settings: DEADiffEncodeSettings, on_chunk: Callable[[int], None]) -> DEADiffTokens:
        """What a MODEL listens to, from references.

        :param images: (n, H, W, 3) in 0..1.
        :param on_chunk: called with how many references are done.
        :raises ValueError: weights that are not numbers, or not as many as references.
        """
        weights = parse_weights(settings.weights, len(images))
        self.load(self._working_bytes(len(images)))
        encoded = encode(self.adapter, images, settings.words, on_chunk, self.device, self.out_of_memory)
        tokens = {kind: combine(of_kind, weights, settings.combine) for kind, of_kind in encoded.items()}
        adapter = self.adapter
        return DEADiffTokens(
            tokens, adapter.projections, adapter.sizes.hidden, adapter.text_tokens, adapter.split, adapter.name
        )

    def _working_bytes(self, images: int) -> int:
        """What some references need on their way: some ten activations of a block, and its attention maps."""
        sizes = self.adapter.sizes
        tokens = sizes.vectors * (6 * sizes.width + 2 * sizes.trunk_inner) + sizes.trunk_heads * sizes.vectors**2
        return min(images, CHUNK) * tokens * 4


def load(name: str, dtype: torch.dtype) -> ComfyDEADiff:
    """A file of the folders, by its name, or the embedded one.

    :raises FileNotFoundError: no folder has it.
    :raises ValueError: it cannot be read as plain weights, or they are not DEADiff's.
    """
    return ComfyDEADiff(load_deadiff(DEADIFF.path(name, demo.deadiff_path()), dtype=dtype))


def apply(model: Any, tokens: DEADiffTokens, settings: DEADiffSettings, mask: Tensor | None, node: str) -> Any:
    """A clone of the MODEL that listens to image tokens beside the prompt.

    :param mask: (B or 1, H, W) in 0..1, where in the picture the tokens act; None is everywhere.
    :param node: display name of the asking node, for messages.
    :raises ValueError: a MODEL of another family, or layers that name nothing.
    """
    edit = tokens.edit_for(model, settings, mask, node)
    patched = fractional_timesteps(model) if settings.timesteps == "fractional" else model.clone()
    return install_tokens(patched, edit, settings.start_percent, settings.end_percent) if settings.acts else patched
