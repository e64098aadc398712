"""DEADiff's encoder under ComfyUI's model manager, and where its files are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ... import demo
from ...attention.image_tokens import ImageTokens, project_tokens, route
from ...attention.layers import Layer
from ...networks.deadiff.load import DEADiffAdapter, load_deadiff
from ...pipelines.deadiff import CHUNK, combine, encode
from .deadiff_tokens import check_model
from .folders import DEADIFF
from .managed import ManagedNetwork
from .model import attention_layers

#: The layers that a file was taught to speak to.
AUTO = "auto"


@dataclass(frozen=True)
class DEADiffTokens:
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

    def joined(self, other: DEADiffTokens) -> DEADiffTokens:
        """These and the other's: one kind from each.

        :raises ValueError: both have the same kind, come from different files, or from different numbers of pictures.
        """
        twice = sorted(set(self.tokens) & set(other.tokens))
        if twice:
            raise ValueError(
                f"Both sets of tokens have {' and '.join(twice)}; join style with semantics. For several references of "
                f"one "
                "kind, put them into one batch and choose how they are combined."
            )
        if self.name != other.name or self.hidden != other.hidden:
            raise ValueError(f"The tokens come from {self.name} and from {other.name}; make both with one file.")
        counts = {len(t) for t in (*self.tokens.values(), *other.tokens.values())} - {1}
        if len(counts) > 1:
            raise ValueError(
                f"The tokens are for {' and '.join(map(str, sorted(counts)))} pictures; use as many, or one."
            )
        return replace(self, tokens={**other.tokens, **self.tokens})

    def edit_for(
        self,
        model: Any,
        weight: float,
        weighting: str,
        mask: Tensor | None,
        semantic_layers: str,
        style_layers: str,
        node: str,
    ) -> ImageTokens:
        """The edit for a MODEL; ``auto`` layers are the file's own.

        :raises ValueError: a MODEL of another family, or layers that name nothing.
        """
        check_model(model, {layer: len(pair[0]) for layer, pair in self.projections.items()}, self.hidden, node)
        chosen = (semantic_layers, style_layers)
        split = (own if given.strip() == AUTO else given for own, given in zip(self.split, chosen, strict=True))
        routing = route(attention_layers(model), *split)
        return ImageTokens(
            project_tokens(self.tokens, self.projections, routing), weight, weighting, mask, self.text_tokens
        )


class ComfyDEADiff(ManagedNetwork):
    """An adapter whose encoder ComfyUI loads, offloads and counts. This is the type DEADIFF.

    :param adapter: on the CPU.
    """

    def __init__(self, adapter: DEADiffAdapter) -> None:
        mm = comfy.model_management
        super().__init__(adapter.encoder, mm.text_encoder_device(), mm.text_encoder_offload_device())
        self.adapter = adapter

    def tokens(self, images: Tensor, words: Mapping[str, str], on_chunk: Callable[[int], None]) -> dict[str, Tensor]:
        """References (n, H, W, 3) in 0..1 -> kind -> tokens (n, tokens, hidden), float32 on the CPU."""
        self.load(self._working_bytes(len(images)))
        return encode(self.adapter, images, words, on_chunk, self.device)

    def combined(self, tokens: Mapping[str, Tensor], weights: Sequence[float], how: str) -> DEADiffTokens:
        """What a MODEL is given, from the tokens of some references; see ``deadiff.combine``."""
        given = {kind: combine(of_kind, weights, how) for kind, of_kind in tokens.items()}
        adapter = self.adapter
        return DEADiffTokens(
            given, adapter.projections, adapter.sizes.hidden, adapter.text_tokens, adapter.split, adapter.name
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
