"""A vision encoder as a source of features: what each patch looks like to it, in one forward pass without noise.

    pictures --sides multiples of the patch--> encoder --tokens behind a block--> patches alone
    --massive channels clipped, length one--> queries and keys alike

So a place is like another by the cosine of the angle between what the encoder says of both. Class and register tokens
are no places and are dropped.

A few channels of such encoders are tens to hundreds of times as large as all others, the same ones at every place (Sun
et al. 2024, arXiv 2402.17762). They would decide every cosine alone, and tell no place from another: they are clipped
against the middle of their own token, which depends on no other place or picture, so a memory may be asked later.

Which block, resolution and temperature suit which encoder has not been measured: no released weights were at hand.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..color import resize
from ..color.sizes import size_of, working_size
from ..color.tensors import is_finite
from ..memory.entries import ColorMemory
from ..memory.features import Features, FeatureSource, Space
from .memory_settings import FeatureSettings

#: What a difference of cosines is divided by at a temperature of 1.
COSINES = 0.05
#: Channels are clipped at so many times the median distance of a token's channels from their median: 4 standard
#: deviations of normal ones.
CLIPPED = 6.0
#: Patches that a picture's side has at the recommended resolution, if the encoder was trained on fewer.
PATCHES = 32
_MATCH = "match"


class Encoder(Protocol):
    """A vision transformer that a host runs."""

    @property
    def fingerprint(self) -> str:
        """Identifies the weights."""
        ...

    @property
    def name(self) -> str:
        """For messages."""
        ...

    @property
    def patch(self) -> int:
        """Pixels of a patch's side."""
        ...

    @property
    def side(self) -> int:
        """Pixels of the pictures' sides that it was trained on; 0 where any will do."""
        ...

    @property
    def width(self) -> int:
        """Channels of a token."""
        ...

    @property
    def depth(self) -> int:
        """How many blocks there are."""
        ...

    @property
    def extra(self) -> int:
        """Tokens before the patches: class and registers."""
        ...

    @property
    def normed(self) -> tuple[Sequence[float], Sequence[float]]:
        """Mean and spread of its pictures' channels."""
        ...

    def tokens(self, pixels: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """Pictures of any size in patches, (B, 3, H, W), normed -> behind each block (B, extra + h · w, width)."""
        ...


@dataclass(frozen=True)
class EncoderFeatures:
    """What an encoder gives of pictures (see ``memory.features.FeatureSource``).

    :param settings: which blocks, and at which resolution; an encoder has no noise level.
    :raises ValueError: blocks that the encoder does not have.
    """

    encoder: Encoder
    settings: FeatureSettings

    def __post_init__(self) -> None:
        _ = self._blocks

    @property
    def fingerprint(self) -> str:
        """Identifies the weights."""
        return self.encoder.fingerprint

    @property
    def name(self) -> str:
        """For messages."""
        return self.encoder.name

    @cached_property
    def _blocks(self) -> tuple[int, ...]:
        return chosen_blocks(self.settings.layers, self.encoder.depth)

    @property
    def spaces(self) -> tuple[Space, ...]:
        """One a block, all of one resolution."""
        return tuple(Space(f"block.{index}", 0.0, self.encoder.width, 1, True) for index in self._blocks)

    def features(self, pictures: Tensor) -> Features:
        """(B, H, W, 3) in 0..1, without color -> features, in one forward pass.

        :raises ValueError: the encoder's answer does not fit its pictures, or is not finite.
        """
        patch = self.encoder.patch
        size = working_size(*size_of(pictures), self.settings.resolution, patch, patch)
        grid = (size[0] // patch, size[1] // patch)
        pixels = resize(pictures, size).float().clamp(0, 1).movedim(-1, 1)
        mean, std = (torch.tensor(tuple(v)).to(pixels).view(1, -1, 1, 1) for v in self.encoder.normed)
        tokens = [self._patches(each, grid) for each in self.encoder.tokens((pixels - mean) / std, self._blocks)]
        if not is_finite(*tokens):
            raise ValueError(
                f"{self.name}: found NaN or infinite features, expected finite ones; run it in float32 or bfloat16, or "
                "get its file again."
            )
        keys = tuple(alike(each) for each in tokens)
        return Features(self.fingerprint, self.spaces, keys, keys, (grid,) * len(keys))

    def _patches(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens without those that are no patches."""
        extra, (height, width) = self.encoder.extra, grid
        if tokens.shape[1:] != (extra + height * width, self.encoder.width):
            raise ValueError(
                f"{self.name}: found tokens {tuple(tokens.shape[1:])} for {height} x {width} patches, expected "
                f"{(extra + height * width, self.encoder.width)}; use an encoder that takes pictures of this size."
            )
        return tokens[:, extra:]


def alike(tokens: Tensor) -> Tensor:
    """Tokens (B, N, C) of any float -> float32 whose dot products, divided by √C, are cosines / :data:`COSINES`."""
    tokens = tokens.float()
    tokens = tokens - tokens.median(-1, keepdim=True).values
    most = CLIPPED * tokens.abs().median(-1, keepdim=True).values
    return F.normalize(tokens.clamp(-most, most), dim=-1) * (tokens.shape[-1] ** 0.25 / math.sqrt(COSINES))


def chosen_blocks(layers: str, depth: int) -> tuple[int, ...]:
    """The blocks that a setting names, in order.

    :param layers: ``match``, the last but one; or ``block.20``, ``block.18-22`` and several of those, by commas.
    :raises ValueError: others, or none that there is.
    """
    has = f"this encoder has block.0-{depth - 1}"
    chosen: set[int] = set()
    for term in re.split(r"[,\s]+", layers.strip().lower()):
        match = re.fullmatch(r"(?:block\.)?(\d{1,6})(?:-(\d{1,6}))?", term)
        if term == _MATCH:
            chosen.add(max(depth - 2, 0))
        elif match is None:
            raise ValueError(f"layers: found '{term}', expected match or a range such as block.18-22; {has}.")
        else:
            found = range(int(match[1]), int(match[2] or match[1]) + 1)
            if not found or found[-1] >= depth:
                raise ValueError(f"layers: '{term}' matches no blocks; {has}.")
            chosen.update(found)
    return tuple(sorted(chosen))


def as_written(settings: FeatureSettings, memory: ColorMemory, fingerprint: str) -> FeatureSettings:
    """Where to look so that a memory can be asked: its own blocks and context.

    :param settings: whose resolution is kept; they are for a memory of another network as they are.
    :param fingerprint: of the encoder that is to ask it.
    """
    made = memory.made
    if made is None or made.fingerprint != fingerprint:
        return settings
    return replace(settings, layers=", ".join(space.name for space in made.spaces), context=made.context)


def recommended_for(encoder: Encoder) -> Mapping[str, Any]:
    """What an encoder recommends for color memories, by the settings' names.

    A patch has seen all others already, so none of those around is mixed into it.
    """
    return {
        "temperature_coarse": 1.0,
        "temperature_fine": 1.0,
        "context": 0.0,
        "resolution": max(encoder.side, PATCHES * encoder.patch),
    }


def blocks_of(network: nn.Module) -> nn.ModuleList:
    """The blocks of a vision transformer: its longest list of modules."""
    return max((module for module in network.modules() if isinstance(module, nn.ModuleList)), key=len)


@contextmanager
def watched(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """What modules give while this is open, in the order in which they run, as copies: some work in place."""
    found: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Any) -> None:
        found.append((output[0] if isinstance(output, tuple) else output).detach().clone())

    hooks = [module.register_forward_hook(keep) for module in modules]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def enlarged_positions(positions: Tensor, grid: tuple[int, int], extra: int) -> Tensor:
    """Learned positions for another grid of patches, as the field does it: bicubic.

    :param positions: (extra + n · n, C), those before the patches first.
    :returns: (extra + h · w, C); the same where the grid is the learned one.
    """
    side = math.isqrt(len(positions) - extra)
    if grid == (side, side):
        return positions
    planes = positions[extra:].float().T.unflatten(1, (side, side))[None]
    planes = F.interpolate(planes, grid, mode="bicubic", align_corners=False)[0].flatten(1).T
    return torch.cat([positions[:extra], planes.to(positions)])


if TYPE_CHECKING:  # the protocol, checked
    _: type[FeatureSource] = EncoderFeatures
