"""What a network gives of pictures: queries and keys of their places, in one or several feature spaces.

A *feature space* is one layer at one noise level. A place of one picture is like a place of another where the query of
the first and the key of the second agree. A UNet's self-attention has both; a vision encoder's features are both.

Several spaces become one: logits of attention are averaged over heads, divided by a temperature and added, which is one
dot product of features that are scaled and put side by side on the finest grid. So a lookup is one attention with one
wide head, however many layers take part:

    S = Σ_s 1/(T_s n_s) · mean over heads (q_s·k_s / √d_s) = q·k,   q = [q_s / (T_s n_s H_s √d_s)]_s,   k = [k_s]_s

with n_s the number of spaces of a kind (coarse or fine), so that more layers of a kind do not sharpen the lookup.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..color.held import Held


@dataclass(frozen=True)
class Space:
    """One feature space.

    :param name: such as ``output.3``.
    :param level: noise level (sigma) at which it is read; 0 where there is none.
    :param width: channels of a query or key, all heads together.
    :param heads: into which they are split.
    :param fine: whether it is of the finest resolution; others are coarse.
    :param turned: queries and keys are turned by place (RoPE), so that equal places match.
    """

    name: str
    level: float
    width: int
    heads: int
    fine: bool
    turned: bool = False


@dataclass(frozen=True)
class Features(Held):
    """Queries and keys of a batch of pictures.

    :param fingerprint: identifies the network.
    :param spaces: at least one.
    :param queries: for each space (B, h · w, width), row-major; ``keys`` likewise.
    :param grids: for each space (h, w).
    """

    fingerprint: str
    spaces: tuple[Space, ...]
    queries: tuple[Tensor, ...]
    keys: tuple[Tensor, ...]
    grids: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        if not self.spaces:
            raise ValueError("features: found no feature space, expected at least one; name a layer.")
        pictures = len(self.queries[0])
        for i, (space, (height, width)) in enumerate(zip(self.spaces, self.grids, strict=True)):
            expected = (pictures, height * width, space.width)
            for letter, tensor in (("queries", self.queries[i]), ("keys", self.keys[i])):
                if tuple(tensor.shape) != expected:
                    raise ValueError(
                        f"features: found {letter} of {space.name} of shape {tuple(tensor.shape)}, expected {expected}."
                    )

    @property
    def pictures(self) -> int:
        """How many pictures there are."""
        return len(self.queries[0])

    @property
    def grid(self) -> tuple[int, int]:
        """The finest (h, w) of all spaces."""
        return max(self.grids, key=lambda grid: grid[0] * grid[1])

    def take(self, pictures: slice) -> Features:
        """Some of the pictures, sharing memory."""
        return self._changed(lambda tensor: tensor[pictures])

    def to(self, device: torch.device) -> Features:
        """The same on a device."""
        return self._changed(lambda tensor: tensor.to(device))

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Features:
        """With other tensors; queries that are the keys, as an encoder's, stay one with them."""
        keys = tuple(map(change, self.keys))
        queries = keys if self.queries is self.keys else tuple(map(change, self.queries))
        return Features(self.fingerprint, self.spaces, queries, keys, self.grids)


def joined_features(parts: Sequence[Features]) -> Features:
    """Features of several batches of pictures of one size as those of one batch."""
    if len(parts) == 1:
        return parts[0]
    keys = tuple(torch.cat(each) for each in zip(*(part.keys for part in parts), strict=True))
    if all(part.queries is part.keys for part in parts):
        return replace(parts[0], queries=keys, keys=keys)
    queries = tuple(torch.cat(each) for each in zip(*(part.queries for part in parts), strict=True))
    return replace(parts[0], queries=queries, keys=keys)


class FeatureSource(Protocol):
    """Whatever gives features of pictures: a UNet at a small noise level, a vision encoder."""

    @property
    def fingerprint(self) -> str:
        """Identifies the network."""
        ...

    @property
    def name(self) -> str:
        """What the user calls the network, for messages; "" where it has no name."""
        ...

    @property
    def spaces(self) -> tuple[Space, ...]:
        """What it gives, in order."""
        ...

    def features(self, pictures: Tensor) -> Features:
        """(B, H, W, 3) in 0..1, without color -> features of all of them, in one forward pass."""
        ...


def scales(spaces: Sequence[Space], coarse: float, fine: float) -> tuple[float, ...]:
    """The factor on the queries of each space.

    :param coarse: temperature of the coarse spaces, ``fine`` of the fine ones.
    """
    kinds = [space.fine for space in spaces]
    return tuple(
        1 / ((fine if s.fine else coarse) * kinds.count(s.fine) * s.heads * math.sqrt(s.width / s.heads))
        for s in spaces
    )


def joined_queries(features: Features, coarse: float = 1.0, fine: float = 1.0, context: float = 0.0) -> Tensor:
    """Queries of all spaces side by side, scaled: (B, h · w, Σ width) on the finest grid, float32.

    :param coarse: temperature of the coarse spaces, ``fine`` of the fine ones.
    :param context: see :func:`on_grid`.
    """
    factors = scales(features.spaces, coarse, fine)
    parts = zip(features.queries, features.grids, factors, strict=True)
    return torch.cat([on_grid(q, grid, features.grid, context) * factor for q, grid, factor in parts], -1)


def joined_keys(features: Features, context: float = 0.0) -> Tensor:
    """Keys of all spaces side by side: (B, h · w, Σ width) on the finest grid, float32."""
    parts = zip(features.keys, features.grids, strict=True)
    return torch.cat([on_grid(k, grid, features.grid, context) for k, grid in parts], -1)


def on_grid(tokens: Tensor, grid: tuple[int, int], finest: tuple[int, int], context: float = 0.0) -> Tensor:
    """Features on a finer grid, if wanted mixed with those around.

    :param tokens: (B, h · w, C) on ``grid``.
    :param context: 0..1, share of the mean of the three by three places around.
    :returns: (B, H · W, C) on ``finest``, float32; coarse features are enlarged smoothly.
    """
    if grid == finest and context == 0:
        return tokens.float()
    planes = tokens.float().unflatten(1, grid).movedim(-1, 1)
    if grid != finest:
        planes = F.interpolate(planes, finest, mode="bilinear")
    if context > 0:
        planes = planes.lerp(F.avg_pool2d(planes, 3, stride=1, padding=1, count_include_pad=False), context)
    return planes.flatten(2).transpose(1, 2)
