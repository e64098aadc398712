"""The color memory: keys with chroma, from any number of references, strokes, palettes and other memories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .features import Space
from .keys import Keys, Precision, joined, stored
from .palette import Palette
from .strokes import Marks


@dataclass(frozen=True)
class Made:
    """What made a memory; only what was made alike can be merged, and only its maker can look things up.

    :param fingerprint: identifies the network.
    :param name: the network's name, for messages; "" where it has none.
    :param spaces: in the order in which keys stand side by side.
    :param context: share of the places around in a key (``features.on_grid``).
    """

    fingerprint: str
    spaces: tuple[Space, ...]
    context: float = 0.0
    name: str = ""

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each space."""
        return tuple(space.width for space in self.spaces)

    def check(self, other: Made, called: str = "memory") -> None:
        """Whether another memory, or what asks this one, was made alike.

        :param called: what the user calls this memory; the message starts with it.
        :raises ValueError: it was not; says what differs.
        """
        if self.fingerprint != other.fingerprint:
            raise ValueError(
                f"{called}: found a memory of the model {self.said}, expected one of {other.said}; write it again with "
                "this model, or load the model that it was written with."
            )
        if self.spaces != other.spaces or self.context != other.context:
            raise ValueError(
                f"{called}: found keys of {_listed(self)}, expected {_listed(other)}; write it again with these "
                "settings, or use the settings that it was written with."
            )

    @property
    def said(self) -> str:
        """Name and fingerprint for a message."""
        return f"{self.name} ({self.fingerprint})" if self.name else self.fingerprint


def _listed(made: Made) -> str:
    spaces = ", ".join(f"{s.name} ({s.width}) at sigma {s.level:.4f}" for s in made.spaces)
    return f"{spaces}, context {made.context:g}"


@dataclass(frozen=True)
class ColorMemory:
    """Entries, each a key with a chroma; and what bounds their colors. A value: nothing changes it.

    :param made: what made the keys; None where there are none and any network will do (a palette alone).
    :param keys: of M entries; None with ``made``.
    :param chroma: (M, 2) float32, a and b of CIE Lab.
    :param weight: (M,) float32 above 0: how much an entry counts beside others that match as well.
    :param source: (M,) int64, which of ``sources`` it comes from.
    :param sources: their names.
    :param marks: strokes, which belong to one picture each.
    :param palettes: colors that bound what comes out.
    """

    made: Made | None
    keys: Keys | None
    chroma: Tensor
    weight: Tensor
    source: Tensor
    sources: tuple[str, ...] = ()
    marks: tuple[Marks, ...] = ()
    palettes: tuple[Palette, ...] = ()

    def __post_init__(self) -> None:
        count = 0 if self.keys is None else len(self.keys)
        shapes = [tuple(t.shape) for t in (self.chroma, self.weight, self.source)]
        if shapes != [(count, 2), (count,), (count,)] or (self.made is None) != (self.keys is None):
            raise ValueError(f"memory: found {count} keys beside chroma, weight and source {shapes}.")
        if count and (not bool((self.weight > 0).all()) or not bool(self.chroma.isfinite().all())):
            raise ValueError("memory: found entries without weight or with NaN as color, expected none.")

    def __len__(self) -> int:
        return len(self.chroma)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        tensors = (self.chroma, self.weight, self.source)
        own = sum(t.numel() * t.element_size() for t in tensors) + (0 if self.keys is None else self.keys.nbytes)
        return own + sum(part.nbytes for part in (*self.marks, *self.palettes))

    def take(self, rows: Tensor) -> ColorMemory:
        """Some of the entries; sources keep their numbers.

        :param rows: (m,) int64, or (M,) bool.
        """
        keys = None if self.keys is None else self.keys[rows]
        return replace(self, keys=keys, chroma=self.chroma[rows], weight=self.weight[rows], source=self.source[rows])

    def to(self, device: torch.device) -> ColorMemory:
        """The same with its entries on a device; strokes and palettes stay where they are."""
        if self.keys is None or self.keys.data.device == device:
            return self
        chroma, weight, source = (t.to(device) for t in (self.chroma, self.weight, self.source))
        return replace(self, keys=self.keys.to(device), chroma=chroma, weight=weight, source=source)

    def weighted(self, factor: float) -> ColorMemory:
        """The same, counting more or less beside others.

        :raises ValueError: a factor of 0 or less.
        """
        if not factor > 0:
            raise ValueError(f"weight is {factor}, expected a number above 0; leave out what is not to count.")
        return self if factor == 1 else replace(self, weight=self.weight * factor)

    def in_precision(self, precision: Precision) -> ColorMemory:
        """The same with its keys stored in a precision."""
        if self.keys is None or self.keys.precision == precision:
            return self
        return replace(self, keys=stored(self.keys.floats(), self.keys.widths, precision))

    def without_entries(self, sources: Sequence[int]) -> ColorMemory:
        """Without the entries of some sources."""
        keep = torch.ones(len(self), dtype=torch.bool)
        for number in sources:
            keep &= self.source != number
        return self if bool(keep.all()) else self.take(keep)

    def merged(self, *others: ColorMemory) -> ColorMemory:
        """All entries of several memories as one; sources are counted on.

        :raises ValueError: keys that were not made alike.
        """
        return merged([self, *others])


def merged(memories: Sequence[ColorMemory]) -> ColorMemory:
    """All entries of several memories as one; sources are counted on, those without entries included.

    :raises ValueError: nothing to merge, or keys that were not made alike.
    """
    if not memories:
        raise ValueError("memories: found none, expected at least one; connect a COLOR_MEMORY.")
    with_keys = [memory for memory in memories if memory.keys is not None]
    for memory in with_keys[1:]:
        if memory.made is not None and with_keys[0].made is not None:
            memory.made.check(with_keys[0].made)
    first, firsts = 0, []
    for memory in memories:
        firsts.append(first)
        first += len(memory.sources)
    marks = [
        replace(mark, source=mark.source + at)
        for memory, at in zip(memories, firsts, strict=True)
        for mark in memory.marks
    ]
    return ColorMemory(
        with_keys[0].made if with_keys else None,
        joined([memory.keys for memory in with_keys if memory.keys is not None]) if with_keys else None,
        torch.cat([memory.chroma for memory in memories]),
        torch.cat([memory.weight for memory in memories]),
        torch.cat([memory.source + at for memory, at in zip(memories, firsts, strict=True)]),
        tuple(name for memory in memories for name in memory.sources),
        tuple(marks),
        tuple(palette for memory in memories for palette in memory.palettes),
    )


def empty(**parts: tuple) -> ColorMemory:
    """A memory without entries: palettes or marks alone."""
    return ColorMemory(None, None, torch.zeros(0, 2), torch.zeros(0), torch.zeros(0, dtype=torch.long), **parts)
