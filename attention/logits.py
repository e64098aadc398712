"""Attention with the logits of an earlier call, as L-CAD's published program runs it.

There every attention layer, self and cross, that finds stored logits uses them *instead of* its own and forgets them;
one that finds none computes and stores them. Values are always fresh. Two things follow from it:

* plain sampling reuses the logits of each odd step in the next one, a defect by all signs (:class:`StaleLogits`);
* instance-aware sampling calls the network twice a step, and the second call uses the first one's logits, those of
  cross-attention changed in between (:class:`KeepLogits`, then :class:`ReuseLogits`).

What is kept here are queries and keys, which hold the same information in less room: no map is ever built.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .call import CONDITIONAL, AttentionCall, Edit, composed, on_rows
from .layers import Layer

#: A row of a batch that is the same row in the next call: branch, picture, and how many rows of both came before it.
_Row = tuple[int, int, int]


@dataclass
class LogitCache:
    """Queries and keys by layer and row.

    It lives for one run (:class:`StaleLogits`), or for one prediction (:class:`KeepLogits`, then :class:`ReuseLogits`).
    The host owns it: ``lcad_instances`` creates it when a run or a prediction begins, and nothing holds it afterward.
    """

    _kept: dict[tuple[Layer, str], dict[_Row, tuple[Tensor, Tensor]]] = field(default_factory=dict)
    _asked: dict[tuple[Layer, str], tuple[int, set[_Row]]] = field(default_factory=dict)

    def asked_again(self, call: AttentionCall) -> bool:
        """Whether a prediction asks for rows that it has asked for already; where it is not known, it does not."""
        at, rows = (call.layer, call.kind), set(_rows(call))
        prediction, asked = self._asked.get(at, (0, set()))
        if not call.prediction:
            return False
        if prediction != call.prediction:
            self._asked[at] = (call.prediction, rows)
            return False
        if rows & asked:
            return True
        asked |= rows
        return False

    def keep(self, call: AttentionCall) -> None:
        """Keep what the logits of these rows come from."""
        kept = self._kept.setdefault((call.layer, call.kind), {})
        kept.update({row: (call.q[i], call.k[i]) for i, row in enumerate(_rows(call))})

    def take(self, call: AttentionCall) -> AttentionCall | None:
        """The same call with the kept queries and keys, which are forgotten; None when these rows have none.

        Rows of another size than the kept ones (a prompt that was repeated, an area of the picture) count as having
        none.
        """
        kept = self._kept.get((call.layer, call.kind), {})
        pairs = [kept.pop(row, None) for row in _rows(call)]
        if any(
            pair is None or pair[0].shape != call.q.shape[1:] or pair[1].shape != call.k.shape[1:] for pair in pairs
        ):
            return None
        q, k = (torch.stack(parts) for parts in zip(*pairs, strict=True))
        return replace(call, q=q.to(call.q), k=k.to(call.k), alone=True)


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

    The first call of a prediction counts. What guidance asks beside it (a perturbed picture) runs as it is: it would
    take the logits that are meant for the next step.
    """

    cache: LogitCache

    def __call__(self, call: AttentionCall, earlier: Callable[[AttentionCall], Tensor]) -> Tensor:
        """Every second call with the logits of the one before, as an edit (``attention.call.Edit``)."""
        if self.cache.asked_again(call):
            return earlier(call)
        kept = self.cache.take(call)
        if kept is not None:
            return composed(call, earlier, kept.plain())
        self.cache.keep(call)
        return earlier(call)


def _rows(call: AttentionCall) -> list[_Row]:
    seen: dict[tuple[int, int], int] = {}
    rows = []
    for at in zip(call.branches, call.pictures, strict=True):
        seen[at] = seen.get(at, 0) + 1
        rows.append((*at, seen[at]))
    return rows
