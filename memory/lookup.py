"""Asking a color memory: which color, how sure, and from where.

Every place of a picture attends to all entries, p_j = softmax_j(q·k_j + log w_j), and what is wanted are means under p:
of chroma, of its square, of which source. They are summed up tile by tile, some queries by some entries, with the
running maximum of online softmax (Milakov and Gimelshein 2018, arXiv 1805.02867; FlashAttention does the same on the
chip): the map of queries x entries is never there, and memory does not grow with either.

This is not torch's fused call, because the features of all layers side by side are wider than its fast kernels take
(256), beyond which it builds the map or pads the values to that width; on one CPU core the tiles are 1.3 to 1.9 times
as fast. They also give what the fused call hides: the sum of the exponentials, so the entropy of p, and the best entry.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .entries import ColorMemory

#: Queries and entries of a tile: 8 MB of logits.
QUERIES, ENTRIES = 1024, 2048
#: Entries up to which a memory goes to the device as a whole; of a larger one a tile at a time does.
AT_HAND = 2**16
#: Side of the blocks of places that a coarse look asks for.
BLOCK = 4


@dataclass(frozen=True)
class Found:
    """What a memory says of N places.

    :param chroma: (N, 2), the mean under the attention, a and b of CIE Lab.
    :param spread: (N,), the standard deviation of chroma under the attention.
    :param entropy: (N,) in 0..1: 0 where attention rests on one entry, 1 where it is even over all.
    :param best: (N,) int64, the entry that matches best.
    :param match: (N,), its logit.
    :param shares: (N, sources), how much of the attention is on each source.
    """

    chroma: Tensor
    spread: Tensor
    entropy: Tensor
    best: Tensor
    match: Tensor
    shares: Tensor

    @property
    def source(self) -> Tensor:
        """(N,) int64, the source that gives most."""
        return self.shares.argmax(-1)


def look_up(
    queries: Tensor,
    memory: ColorMemory,
    top: int = 0,
    device: torch.device | None = None,
    prior: Tensor | None = None,
) -> Found:
    """Ask a memory.

    :param queries: (N, C), scaled, as ``features.joined_queries`` gives them.
    :param memory: with at least one entry.
    :param top: how many of the best entries each place attends to; 0 for all. Exact, at the price of a second pass.
    :param device: where it is computed; None is where the queries are.
    :param prior: (1 or N, sources), added to the logits of each source's entries; None adds nothing.
    :returns: on the CPU.
    :raises ValueError: a memory without entries, or keys of another width.
    """
    if memory.keys is None or not len(memory):
        raise ValueError(
            "memory: found no entries, expected some; a palette bounds colors, it has none for places: merge it "
            "with the memory of a reference."
        )
    if queries.shape[-1] != sum(memory.keys.widths):
        raise ValueError(f"queries: found {queries.shape[-1]} channels, expected {sum(memory.keys.widths)}.")
    device = device or queries.device
    if len(memory) <= AT_HAND:
        memory = memory.to(device)
    sources = max(len(memory.sources), 1)
    parts = []
    for first in range(0, len(queries), QUERIES):
        some = slice(first, first + QUERIES)
        more = None if prior is None else (prior[some] if len(prior) > 1 else prior).to(device).float()
        parts.append(_asked(queries[some].to(device).float(), memory, sources, top, more))
    return Found(*(torch.cat(each).cpu() for each in zip(*parts, strict=True)))


def shortlisted(
    queries: Tensor,
    grid: tuple[int, int],
    memory: ColorMemory,
    most: int,
    device: torch.device | None = None,
    prior: Tensor | None = None,
) -> ColorMemory:
    """The part of a large memory that a picture can have use for.

    A coarse look asks all entries for blocks of :data:`BLOCK` x :data:`BLOCK` places at once, and keeps the best for
    each block. So the time of a lookup hardly grows with the memory: 16 more references cost as much as one.

    :param queries: (h · w, C) on ``grid``.
    :param most: entries to keep; 0 for all. Where there are more blocks than that, one a block.
    :param prior: (sources,), added to the logits of each source's entries; None adds nothing.
    :returns: the memory itself where it has no more.
    """
    if most <= 0 or len(memory) <= most:
        return memory
    device = device or queries.device
    planes = queries.to(device).float().T.unflatten(1, grid)[None]
    blocks = F.avg_pool2d(planes, BLOCK, ceil_mode=True)[0].flatten(1).T
    top = max(1, most // len(blocks))
    before = None if prior is None else prior.to(blocks)[None]
    rows = [_best(part, memory, top, before)[1].flatten().cpu() for part in blocks.split(QUERIES)]
    return memory.take(torch.cat(rows).unique())


def _asked(queries: Tensor, memory: ColorMemory, sources: int, top: int, prior: Tensor | None) -> tuple[Tensor, ...]:
    """The fields of :class:`Found` for one tile's queries."""
    if 0 < top < len(memory):
        logits, rows = _best(queries, memory, top, prior)
        values = _values(memory, rows.flatten().to(memory.source.device), sources, queries.device).unflatten(
            0, rows.shape
        )
        sums = _Sums(queries, sources)
        sums.add(logits, rows, lambda e: (e[:, None] @ values)[:, 0])
        return sums.done(top)
    sums = _Sums(queries, sources)
    for first, logits in _tiles(queries, memory, prior):
        rows = slice(first, first + logits.shape[1])
        values = _values(memory, rows, sources, queries.device)
        sums.add(logits, first, lambda e, values=values: e @ values)
    return sums.done(len(memory))


def _tiles(queries: Tensor, memory: ColorMemory, prior: Tensor | None = None):
    """(first entry, logits (n, at most ENTRIES)) of one tile after another."""
    assert memory.keys is not None
    for first in range(0, len(memory), ENTRIES):
        rows = slice(first, first + ENTRIES)
        keys = memory.keys[rows].to(queries.device).floats()
        bias = memory.weight[rows].to(queries).log()
        more = None if prior is None else prior[:, memory.source[rows].to(prior.device)]
        if more is not None and len(more) == 1:
            bias, more = bias + more[0], None
        logits = torch.addmm(bias, queries, keys.T)
        yield first, logits if more is None else logits.add_(more)


def _values(memory: ColorMemory, rows: slice | Tensor, sources: int, device: torch.device) -> Tensor:
    """(m, 4 + sources): 1, a, b, a² + b², and which source, of some entries."""
    chroma = memory.chroma[rows].to(device).float()
    # compared, since one_hot asks a GPU for the largest number and waits
    which = (memory.source[rows].to(device)[:, None] == torch.arange(sources, device=device)).float()
    ones = torch.ones_like(chroma[:, :1])
    return torch.cat([ones, chroma, chroma.square().sum(-1, keepdim=True), which], -1)


def _best(queries: Tensor, memory: ColorMemory, top: int, prior: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The largest logits of each query, (n, top), and their entries."""
    logits = queries.new_empty(len(queries), 0)
    rows = torch.empty(len(queries), 0, dtype=torch.long, device=queries.device)
    for first, tile in _tiles(queries, memory, prior):
        best, at = tile.topk(min(top, tile.shape[1]), -1)
        both, numbers = torch.cat([logits, best], -1), torch.cat([rows, at + first], -1)
        logits, order = both.topk(min(top, both.shape[1]), -1)
        rows = numbers.gather(-1, order)
    return logits, rows


class _Sums:
    """Running sums of one tile's queries: exponentials, those times values, those times logits, and the maximum.

    Lifetime: one tile of queries.
    """

    def __init__(self, queries: Tensor, sources: int) -> None:
        count = len(queries)
        self.highest = queries.new_full((count, 1), -math.inf)
        self.best = torch.zeros(count, dtype=torch.long, device=queries.device)
        self.values = queries.new_zeros(count, 4 + sources)
        self.logits = queries.new_zeros(count, 1)  # Σ e^(s − highest) · (s − highest)

    def add(self, logits: Tensor, rows: int | Tensor, weighted: Callable[[Tensor], Tensor]) -> None:
        """:param rows: number of the first entry, or (n, m) numbers; ``weighted`` (n, m) -> sums of values."""
        highest, at = logits.max(-1, keepdim=True)
        better = (highest > self.highest)[:, 0]
        new = torch.maximum(highest, self.highest)
        number = at[:, 0] + rows if isinstance(rows, int) else rows.gather(-1, at)[:, 0]
        self.best = torch.where(better, number, self.best)
        fall = self.highest - new
        fade = fall.exp()
        total = self.values[:, :1]
        # sums are kept relative to the highest logit so far; e^-inf of nothing yet is 0
        fall = torch.where(fade > 0, fall, 0)
        self.logits = fade * (self.logits + fall * total)
        self.values = self.values * fade
        lower = logits - new
        e = lower.exp()
        self.values = self.values + weighted(e)
        self.logits = self.logits + (e * lower).sum(-1, keepdim=True)
        self.highest = new

    def done(self, entries: int) -> tuple[Tensor, ...]:
        """:param entries: over which attention can be spread."""
        total = self.values[:, :1]
        means = self.values[:, 1:] / total
        chroma, square, shares = means[:, :2], means[:, 2], means[:, 3:]
        spread = (square - chroma.square().sum(-1)).clamp_min(0).sqrt()
        # −Σ p log p with log p = (s − highest) − log total
        entropy = (total.log() - self.logits / total)[:, 0]
        entropy = (entropy / math.log(max(entries, 2))).clamp(0, 1)
        return chroma, spread, entropy, self.best, self.highest[:, 0], shares
