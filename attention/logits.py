"""Attention with the logits of an earlier call, as L-CAD's published program runs it.

There every attention layer, self and cross, that finds stored logits uses them *instead of* its own and forgets them;
one that finds none computes and stores them. Values are always fresh. Two things follow from it:

* plain sampling reuses the logits of each odd step in the next one, a defect by all signs (:class:`StaleLogits`);
* instance-aware sampling calls the network twice a step, and the second call uses the first one's logits, those of
  cross-attention changed in between (:class:`KeepLogits`, then :class:`ReuseLogits`).

What is kept here are queries and keys, which hold the same information in less room: no map is ever built.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .call import CONDITIONAL, AttentionCall, Edit, composed, on_rows
from .layers import Layer
from .rows import compact

#: A row of a batch that is the same row in the next call: branch, picture, and how many rows of both came before it.
_Row = tuple[int, int, int]


@dataclass
class LogitCache:
    """Queries and keys by layer and row, in one tensor a layer that holds nothing but these rows.

    It lives for one run (:class:`StaleLogits`), or for one prediction (:class:`KeepLogits`, then :class:`ReuseLogits`).
    The host owns it: ``lcad_instances`` creates it when a run or a prediction begins, and nothing holds it afterward.
    """

    _kept: dict[tuple[Layer, str], dict[_Row, tuple[Tensor, Tensor]]] = field(default_factory=dict)
    _used: dict[tuple[Layer, str], dict[_Row, tuple[Tensor, Tensor] | None]] = field(default_factory=dict)
    _prediction: int = 0

    def again(self, call: AttentionCall) -> AttentionCall | None:
        """A call whose rows the same prediction has asked for before, with the logits that it had then.

        What guidance asks beside a prediction (a perturbed picture) must not take the logits that are meant for the
        next one, and is to differ from it in nothing but the perturbation.

        :returns: the call itself where it had its own; None for rows that are new, or a host that counts nothing.
        """
        rows, used = _rows(call), self._of_prediction(call)
        if not all(row in used for row in rows):
            return None
        pairs = [used[row] for row in rows]
        known = [pair for pair in pairs if pair is not None]
        return call if len(known) < len(pairs) else _with_logits(call, known) or call

    def note(self, call: AttentionCall, taken: AttentionCall | None) -> None:
        """Remember for the rest of a prediction what a call's logits were; ``taken`` is None for its own."""
        if call.prediction:
            pairs = {row: None if taken is None else (taken.q[i], taken.k[i]) for i, row in enumerate(_rows(call))}
            self._of_prediction(call).update(pairs)

    def keep(self, call: AttentionCall) -> None:
        """Keep what the logits of these rows come from."""
        kept = self._kept.setdefault((call.layer, call.kind), {})
        q, k = compact(call.q), compact(call.k)
        kept.update({row: (q[i], k[i]) for i, row in enumerate(_rows(call))})

    def take(self, call: AttentionCall) -> AttentionCall | None:
        """The same call with the kept queries and keys, which are forgotten; None when these rows have none.

        Rows of another size than the kept ones (a prompt that was repeated, an area of the picture) count as having
        none.
        """
        kept = self._kept.get((call.layer, call.kind), {})
        pairs = [kept.pop(row, None) for row in _rows(call)]
        known = [pair for pair in pairs if pair is not None]
        return _with_logits(call, known) if len(known) == len(pairs) else None

    def _of_prediction(self, call: AttentionCall) -> dict[_Row, tuple[Tensor, Tensor] | None]:
        """What the rows of a layer used in the running prediction; what all layers used before it goes."""
        if call.prediction != self._prediction:
            self._used.clear()
            self._prediction = call.prediction
        return self._used.setdefault((call.layer, call.kind), {})


@dataclass(frozen=True)
class KeepLogits:
    """An edit that lets attention run as it is and keeps the logits of the conditional rows."""

    cache: LogitCache

    def __call__(self, call: AttentionCall, earlier: Callable[[AttentionCall], Tensor]) -> Tensor:
        """The call as it is, as an edit (``attention.call.Edit``)."""
        self.cache.keep(call.select(call.rows_of(CONDITIONAL)))
        return earlier(call)


@dataclass(frozen=True)
class ReuseLogits:
    """An edit that attends with kept logits and fresh values.

    :param change: an edit of the call that holds the kept logits.
    """

    cache: LogitCache
    change: Edit | None = None

    def __call__(self, call: AttentionCall, earlier: Callable[[AttentionCall], Tensor]) -> Tensor:
        """The call with kept logits for its conditional rows, as an edit (``attention.call.Edit``)."""
        rows = call.rows_of(CONDITIONAL)

        def reused(part: AttentionCall) -> Tensor:
            kept = self.cache.take(part)
            if kept is None:
                return earlier(part)
            own = kept.plain() if self.change is None else self.change(kept, AttentionCall.plain)
            return composed(part, earlier, own)

        return on_rows(call, rows, reused, earlier) if rows else earlier(call)


@dataclass(frozen=True)
class StaleLogits:
    """The published plain sampling: what is kept is used and forgotten, else the call's own is used and kept.

    The first call of a prediction counts; what guidance asks beside it has the same logits.
    """

    cache: LogitCache

    def __call__(self, call: AttentionCall, earlier: Callable[[AttentionCall], Tensor]) -> Tensor:
        """Every second call with the logits of the one before, as an edit (``attention.call.Edit``)."""
        again = self.cache.again(call)
        if again is not None:
            return earlier(call) if again is call else composed(call, earlier, again.plain())
        kept = self.cache.take(call)
        self.cache.note(call, kept)
        if kept is not None:
            return composed(call, earlier, kept.plain())
        self.cache.keep(call)
        return earlier(call)


def _with_logits(call: AttentionCall, pairs: Sequence[tuple[Tensor, Tensor]]) -> AttentionCall | None:
    """A call with other queries and keys, a pair for each row; None where they are of another size."""
    if any(q.shape != call.q.shape[1:] or k.shape != call.k.shape[1:] for q, k in pairs):
        return None
    q, k = (torch.stack(parts) for parts in zip(*pairs, strict=True))
    return replace(call, q=q.to(call.q), k=k.to(call.k), alone=True)


def _rows(call: AttentionCall) -> list[_Row]:
    seen: dict[tuple[int, int], int] = {}
    rows = []
    for at in zip(call.branches, call.pictures, strict=True):
        seen[at] = seen.get(at, 0) + 1
        rows.append((*at, seen[at]))
    return rows
