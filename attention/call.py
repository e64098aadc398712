"""One attention call, and what it means to edit it.

An *edit* is a value: for a call it returns the attention's output. It counts no calls, because the call itself says
where the model is: which layer, which sigma, which row is which branch of which picture. Edits compose: each gets a
function ``earlier`` that runs whatever stood on that layer before (another edit, another pack's replacement, or plain
attention).

Most edits keep nothing from call to call. What the others keep has a lifetime, and an owner that makes and drops it:

============================ =========================================== ===============================================
edit                         what it keeps                               lifetime and owner
============================ =========================================== ===============================================
``capture.Capture``          q, k, v, in the banks of its targets        one inversion; who inverts owns the banks
``dual.DualAttentionColor``  outputs that are known before sampling      its own: the MODEL or run that holds it
``levels_on_device``         one level of features, on the run's device  one run; the edit that reads them
``control.SourceFeatures``   queries and keys of the source's rows       one prediction; its ``ControlledAttention``
``word_maps.WordMaps``       sums of words' maps over layers             one prediction or one run; see the class
``logits.LogitCache``        queries and keys of a run, by layer and row one run; whoever runs the model
``image_tokens.ImageTokens`` keys and values ready for a batch's rows   one run; the host that installed it
``constants.Constants``      masks and tables that went to the device    one run; the edit or run that holds it
============================ =========================================== ===============================================

Each class says in its docstring who clears it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from .layers import Layer
from .rotary import Rotation
from .rows import put, taken


class Attend(Protocol):
    """Fused attention of a host: softmax(scale · q·kᵀ) · v, head by head."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float | None = None) -> Tensor:
        """q (B, N, H·d), k (B, M, H·d) and v (B, M, H·e), e at most d -> (B, N, H·e), in k's dtype.

        :param q: may be more precise than ``k``: it is rounded to k's dtype once, after all that it is multiplied with.
        :param scale: what multiplies the logits; None is d^-1/2.
        """
        ...


#: Precisions in which one more rounding can be felt.
HALVES = (torch.float16, torch.bfloat16)

#: Branch numbers of the conditional (positive) and of the unconditional prediction, as in ComfyUI, and of a row that
#: belongs to neither: a prompt that another node asks for by itself.
CONDITIONAL, UNCONDITIONAL, UNKNOWN = 0, 1, -1

#: Kinds of attention layers, in ComfyUI's words: self-attention, and attention to the prompt.
SELF, CROSS = "attn1", "attn2"


@dataclass(frozen=True)
class AttentionCall:
    """What a host knows when an attention layer runs, after the projections and before ``to_out``.

    :param q: (rows, N, heads · d); ``k`` and ``v`` are (rows, M, heads · d).
    :param sigma: noise level of this model call, in units where the latent has unit variance.
    :param branches: for each row, which branch it belongs to (0 conditional, 1 unconditional, ...).
    :param pictures: for each row, its place in the latent batch.
    :param rows: for each row, its place in the host's batch; a selection keeps them.
    :param grid: (height, width) of the N tokens, row-major.
    :param attend: the host's fused attention.
    :param kind: self-attention, or cross-attention (whose M tokens are the prompt's, repeated at times).
    :param alone: nothing else stands on the layer, so that ``earlier`` is plain attention.
    :param prediction: which prediction of a run the call belongs to, counted from 1; 0 where the host does not say. A
        sampler's guidance may make several calls in one.
    :param whole: the rows are whole pictures, not areas of them.
    :param ranks: for each row, the place of its prompt among those of its branch (a combined prompt has several);
        empty where each has one.
    :param text: how many of the keys, from the first, are the prompt's, where a patch may have appended others; 0 for
        all.
    :param beside: keys and values, (rows, T, heads · d), of tokens that stand in the same attention and are not the
        picture's: the prompt's, other pictures'. None for none.
    :param rotation: how q and k were turned by place, None where they were not.
    """

    layer: Layer
    sigma: float
    q: Tensor
    k: Tensor
    v: Tensor
    heads: int
    branches: tuple[int, ...]
    pictures: tuple[int, ...]
    rows: tuple[int, ...]
    grid: tuple[int, int]
    attend: Attend
    kind: str = SELF
    alone: bool = True
    prediction: int = 0
    whole: bool = True
    ranks: tuple[int, ...] = ()
    text: int = 0
    beside: tuple[Tensor, Tensor] | None = None
    rotation: Rotation | None = None

    @property
    def text_keys(self) -> int:
        """How many of the keys, from the first, are the prompt's."""
        return self.text or self.k.shape[1]

    def rows_of(self, branch: int) -> list[int]:
        """Positions in this call of the rows that belong to a branch."""
        return [i for i, b in enumerate(self.branches) if b == branch]

    def select(self, positions: Sequence[int]) -> AttentionCall:
        """The same call with only some of its rows; its tensors are views where these are evenly spaced."""
        if list(positions) == list(range(len(self.branches))):
            return self
        return replace(
            self,
            q=taken(self.q, positions),
            k=taken(self.k, positions),
            v=taken(self.v, positions),
            branches=tuple(self.branches[i] for i in positions),
            pictures=tuple(self.pictures[i] for i in positions),
            rows=tuple(self.rows[i] for i in positions),
            ranks=tuple(self.ranks[i] for i in positions) if self.ranks else (),
            beside=None if self.beside is None else tuple(taken(t, positions) for t in self.beside),
            rotation=None if self.rotation is None else self.rotation.of_rows(list(positions)),
        )

    def unturned(self) -> AttentionCall:
        """The same call with q and k as they were before they were turned by place."""
        rotation = self.rotation
        if rotation is None:
            return self
        return replace(self, q=rotation.back(self.q, self.heads), k=rotation.back(self.k, self.heads), rotation=None)

    def plain(self) -> Tensor:
        """Ordinary attention of this call, (rows, N, heads · d)."""
        if self.beside is None:
            return self.attend(self.q, self.k, self.v, self.heads)
        keys, values = (torch.cat(pair, 1) for pair in zip(self.beside, (self.k, self.v), strict=True))
        return self.attend(self.q, keys, values, self.heads)


class Edit(Protocol):
    """Anything that can stand in for an attention layer."""

    def __call__(self, call: AttentionCall, earlier: Callable[[AttentionCall], Tensor]) -> Tensor:
        """Return the attention's output, (rows, N, heads · d); ``earlier(call)`` gives what it would have been.

        The tensor is the host's from then on: it may work on it in place.
        """
        ...


def on_rows(
    call: AttentionCall,
    positions: Sequence[int],
    edited: Callable[[AttentionCall], Tensor],
    earlier: Callable[[AttentionCall], Tensor],
) -> Tensor:
    """An edit of some rows of a call, among the others as they would have been.

    :param positions: of the rows to edit, at least one.
    :param edited: those rows' call -> their output, (len(positions), N, heads · d).
    :returns: (rows, N, heads · d).
    """
    part = edited(call.select(positions))
    if len(positions) == len(call.rows):
        return part
    rest = [i for i in range(len(call.rows)) if i not in positions]
    out = part.new_empty((len(call.rows), *part.shape[1:]))
    put(out, positions, part)
    put(out, rest, earlier(call.select(rest)).to(out))
    return out


def composed(call: AttentionCall, earlier: Callable[[AttentionCall], Tensor], edited: Tensor) -> Tensor:
    """An edit's output beside whatever stood on the layer: what it changes of plain attention is added to that.

    :param edited: (rows, N, heads · d), what the edit makes of plain attention.
    :returns: (rows, N, heads · d).
    """
    if call.alone:
        return edited
    change = precise(edited) - precise(call.plain())
    return (precise(earlier(call)) + change).to(edited)


def faded(before: Tensor, edited: Tensor, share: float | Tensor) -> Tensor:
    """Between an output without an edit and the one under it, both (rows, N, heads · d); rounded once.

    :param share: of the edit, 0 to 1: a number, or a float32 tensor (rows or 1, N or 1, 1).
    """
    if not isinstance(share, Tensor):
        return torch.lerp(before, edited, share)
    start = precise(before)
    return torch.lerp(start, precise(edited), share.to(start.dtype)).to(edited)


def precise(tensor: Tensor) -> Tensor:
    """Half precision as float32, anything else as it is: for sums that are to be rounded once."""
    return tensor.float() if tensor.dtype in HALVES else tensor


def batch_layout(entries: Sequence[int], rows: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Branch and picture of every row of a batch made of equal chunks, one chunk an entry.

    :param entries: the branch of each chunk, in order (ComfyUI's ``cond_or_uncond``; any order, any repetition).
    :returns: (branches, pictures), each with ``rows`` entries.
    :raises ValueError: the rows do not divide into that many chunks.
    """
    if not entries or rows % len(entries):
        raise ValueError(f"A batch of {rows} rows does not divide into {len(entries)} equal branches {list(entries)}.")
    size = rows // len(entries)
    branches = tuple(branch for branch in entries for _ in range(size))
    return branches, tuple(range(size)) * len(entries)
