"""Edits of cross-attention maps: values that compose, each a function ``(source map, target map) -> map``.

Maps are small here (77 columns) and in float32; rows of a map sum to 1 until a :class:`Reweight`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Protocol

import torch
from torch import Tensor


class MapEdit(Protocol):
    """An edit of cross-attention maps."""

    def __call__(self, source: Tensor, target: Tensor) -> Tensor:
        """Maps (..., N, source columns) and (..., N, target columns) -> (..., N, target columns).

        ``target`` is what earlier edits made of the target's map.
        """
        ...


@dataclass(frozen=True, eq=False)
class Replace:
    """Word swap: each target word takes the map of the source words that stand for it (arXiv 2208.01626, "Word swap").

    :param mapper: (source columns, target columns), how a target column is mixed from source columns.
    """

    mapper: Tensor

    def __call__(self, source: Tensor, target: Tensor) -> Tensor:
        """Maps (..., columns) of source and target -> the target's."""
        return source @ self.mapper.to(source)


@dataclass(frozen=True, eq=False)
class Refine:
    """Added words: common words take the source's map, new ones keep their own ("Adding a new phrase").

    :param mapper: (target columns,) index of the source column of each target column; where ``alphas`` is 0 it is not
        looked at and may be -1.
    :param alphas: (target columns,) in 0..1, 1 takes the source's map and 0 keeps the target's own.
    """

    mapper: Tensor
    alphas: Tensor

    def __call__(self, source: Tensor, target: Tensor) -> Tensor:
        """Maps (..., columns) of source and target -> the target's."""
        taken = source.index_select(-1, self.mapper.clamp_min(0).to(source.device))
        alphas = self.alphas.to(source)
        return taken * alphas + target * (1 - alphas)


@dataclass(frozen=True, eq=False)
class Reweight:
    """Louder and quieter words ("Attention re-weighting"). Rows then no longer sum to 1, as published.

    :param equalizer: (target columns,) factor of each column; 1 leaves it.
    """

    equalizer: Tensor

    def __call__(self, source: Tensor, target: Tensor) -> Tensor:
        """Maps (..., columns) of source and target -> the target's."""
        return target * self.equalizer.to(target)


def edit_on(edit: MapEdit, device: torch.device) -> MapEdit:
    """An edit with its tables on a device; one that has none is returned itself."""
    if not is_dataclass(edit) or isinstance(edit, type):
        return edit
    tables = {field.name: getattr(edit, field.name) for field in fields(edit)}
    return replace(edit, **{name: table.to(device) for name, table in tables.items() if isinstance(table, Tensor)})


def attention_map(q: Tensor, k: Tensor, heads: int) -> Tensor:
    """softmax(q·kᵀ/√d) in float32: q (B, N, H·d), k (B, M, H·d) -> (B, H, N, M)."""
    q, k = (t.float().unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k))
    return (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)


def split_columns(maps: Tensor, columns: int, appended: int = 0) -> tuple[Tensor, Tensor]:
    """The prompt's columns of a map, and those behind it: (..., r · columns + others) -> (..., columns), (..., others).

    ComfyUI repeats prompts of different lengths to a common one. Copies of a word share its attention, so their sum is
    the word's. Other nodes may append keys of their own, such as image tokens.

    :param appended: how many are known to be such; else as many as the prompt has would count as a repetition.
    :raises ValueError: fewer columns than the prompt has.
    """
    keys = maps.shape[-1]
    if keys < columns:
        raise ValueError(
            f"The prompt has {keys} text columns where the control was made for {columns}: use the CONDITIONING that "
            "the control was made for."
        )
    text = (keys - appended) // columns * columns
    return maps[..., :text].unflatten(-1, (-1, columns)).sum(-2), maps[..., text:]


def apply_map(maps: Tensor, v: Tensor, heads: int) -> Tensor:
    """(B, H, N, M) maps on values (B, M, H·d) -> (B, N, H·d), in the values' dtype."""
    split = v.float().unflatten(-1, (heads, -1)).transpose(1, 2)
    return (maps @ split).transpose(1, 2).flatten(2).to(v)
