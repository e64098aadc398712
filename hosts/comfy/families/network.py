"""What is known of a MODEL's network, whatever its family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ....attention.families import Family
from ....attention.layers import Layer, LayerInfo


@dataclass(frozen=True)
class Network:
    """One MODEL's network.

    :param family: which it is of.
    :param layers: where a picture attends to itself, in network order.
    :param stem: name, within the network, of the module that reads latents, whose weights tell it from others.
    :param context: width of the prompts that it reads; None where it says nothing of it.
    :param multiple: sides of latents are best multiples of this.
    :param padding: the picture's tokens are filled up to a multiple of this.
    :param named: ComfyUI's options say which layer runs; else they are made to.
    """

    family: Family
    layers: tuple[LayerInfo, ...]
    stem: str
    context: int | None = None
    multiple: int = 1
    padding: int = 1
    named: bool = True

    def span(self, tokens: int, grid: tuple[int, int], after: int = 0) -> tuple[int, int] | None:
        """Where the tokens of the picture that is made stand among all of a call: [first, last).

        :param tokens: of the call's queries.
        :param grid: (height, width) of the picture's.
        :param after: tokens of other pictures behind it.
        :returns: None where they do not fit.
        """
        number = grid[0] * grid[1]
        filled = -(-number // self.padding) * self.padding
        first = tokens - after - filled
        if first < 0 or (first == 0) == self.family.joint:
            return None
        return first, first + number


def transformer_layers(
    block: str, number: int, channels: int, heads: int, patch: int, skipped: Sequence[int] = ()
) -> tuple[LayerInfo, ...]:
    """Layers of equal width, one a block."""
    return tuple(
        LayerInfo(Layer(block, index), channels, heads, patch) for index in range(number) if index not in skipped
    )


def in_features(module: Any) -> int | None:
    """Channels that a linear layer reads; None where it is none."""
    return getattr(module, "in_features", None)
