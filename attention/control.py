"""Prompt-to-prompt control (Hertz et al. 2022, arXiv 2208.01626) as attention edits: a target follows a source.

Two prompts are denoised side by side. What the source's attention *looks at* is handed to the target, what it *finds
there* stays the target's own:

* self-attention: the target's map becomes the source's. softmax(q_s·k_sᵀ/√d) · v_t is one fused attention call with the
  source's queries and keys and the target's values, so no map is ever built;
* cross-attention: the source's map (tokens by words) is edited and used on the target's words. These maps are small
  (77 columns) and are built for the rows that need them only.

Cross edits are values that compose, each a function ``(source map, target map) -> map``: :class:`Replace`,
:class:`Refine`, :class:`Reweight`. Windows are fractions of the run, turned into steps as the published programs do
(VCT, arXiv 2307.14352, section 3.3, uses the same ones). Nothing here counts: the host says which step of how many a
call belongs to, and which row is which branch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from .call import CONDITIONAL, CROSS, AttentionCall, composed
from .layers import Layer, LayerInfo, decoder_resolutions
from .word_maps import WordMaps

#: Branches of a controlled run, beside 0 (the target's conditional prediction) and 1 (its unconditional one).
TARGET = CONDITIONAL
SOURCE = 2
SOURCE_UNCONDITIONAL = 3

#: Self-attention maps with more queries are left alone by the published programs (32 x 32 tokens).
OFFICIAL_QUERIES = 1024


#: Choices of the self-attention layers that follow the source; see :func:`self_layer_options`.
SELF_LAYERS = ("official (up to 1024 tokens)", "all but the finest", "all")


class MapEdit(Protocol):
    """An edit of cross-attention maps."""

    def __call__(self, source: Tensor, target: Tensor) -> Tensor:
        """Maps (..., N, source columns) and (..., N, target columns) -> (..., N, target columns).

        ``target`` is what earlier edits made of the target's map.
        """


@dataclass(frozen=True, eq=False)
class Replace:
    """Word swap: each target word takes the map of the source words that stand for it (arXiv 2208.01626, "Word swap").

    :param mapper: (source columns, target columns), how a target column is mixed from source columns.
    """

    mapper: Tensor

    def __call__(self, source: Tensor, target: Tensor) -> Tensor:
        return source @ self.mapper.to(source)


@dataclass(frozen=True, eq=False)
class Refine:
    """Added words: common words take the source's map, new ones keep their own (arXiv 2208.01626, "Adding a new
    phrase").

    :param mapper: (target columns,) index of the source column of each target column; where ``alphas`` is 0 it is not
        looked at and may be -1.
    :param alphas: (target columns,) in 0..1, 1 takes the source's map and 0 keeps the target's own.
    """

    mapper: Tensor
    alphas: Tensor

    def __call__(self, source: Tensor, target: Tensor) -> Tensor:
        taken = source.index_select(-1, self.mapper.clamp_min(0).to(source.device))
        alphas = self.alphas.to(source)
        return taken * alphas + target * (1 - alphas)


@dataclass(frozen=True, eq=False)
class Reweight:
    """Louder and quieter words (arXiv 2208.01626, "Attention re-weighting"). Rows then no longer sum to 1, as
    published.

    :param equalizer: (target columns,) factor of each column; 1 leaves it.
    """

    equalizer: Tensor

    def __call__(self, source: Tensor, target: Tensor) -> Tensor:
        return target * self.equalizer.to(target)


#: A window: its end as a share of the run, or (start, end).
Window = float | tuple[float, float]


def window_bounds(window: Window) -> tuple[float, float]:
    """(start, end) of a window.

    :raises ValueError: shares outside of 0..1, or the end before the start.
    """
    start, end = window if isinstance(window, tuple) else (0.0, window)
    if not 0 <= start <= end <= 1:
        raise ValueError(f"A window runs from {start} to {end} of the run; both must lie in 0..1, in this order.")
    return start, end


def self_active(step: int, steps: int, window: Window) -> bool:
    """Whether self-attention is edited: int(start·N) <= step < int(end·N)."""
    start, end = window_bounds(window)
    return int(steps * start) <= step < int(steps * end)


def cross_share(
    step: int, steps: int, window: Window, columns: int, words: Mapping[int, Window] | None = None
) -> Tensor:
    """How much of the edited map each column takes: (columns,), 1 inside its window and 0 outside.

    The published programs count N + 1 places here, so int(0.2·(5 + 1)) = 1 step of 5.

    :param words: windows of single columns, in place of the common one.
    """

    def inside(window: Window) -> float:
        start, end = window_bounds(window)
        return float(int(start * (steps + 1)) <= step < int(end * (steps + 1)))

    share = torch.full((columns,), inside(window))
    for column, own in (words or {}).items():
        share[column] = inside(own)
    return share


@dataclass(frozen=True, eq=False)
class PromptControl:
    """What the target takes from the source, and when.

    :param columns: (source, target) number of text columns; a host may repeat prompts, which is undone by these
        numbers.
    :param edits: cross-attention edits, in order.
    :param cross_window: when cross-attention is edited; share of the run, or (start, end).
    :param self_window: when self-attention is.
    :param word_windows: cross windows of single target columns.
    :param most_queries: self-attention layers with more queries are left alone; None sets no limit. The published limit
        leaves out the finest layers of a 512 pixel picture; of smaller ones it leaves out none.
    :param self_layers: the only self-attention layers to edit; None edits all.
    :raises ValueError: a window that is none, or one of a column that is none.
    """

    columns: tuple[int, int]
    edits: tuple[MapEdit, ...] = ()
    cross_window: Window = 0.8
    self_window: Window = 0.4
    word_windows: Mapping[int, Window] = field(default_factory=dict)
    most_queries: int | None = OFFICIAL_QUERIES
    self_layers: frozenset[Layer] | None = None

    def __post_init__(self) -> None:
        for window in (self.cross_window, self.self_window, *self.word_windows.values()):
            window_bounds(window)
        for column in self.word_windows:
            if not 0 <= column < self.columns[1]:
                raise ValueError(
                    f"A window is given for column {column}, but the prompt has columns 0 to {self.columns[1] - 1}."
                )

    def edit_map(self, source: Tensor, target: Tensor, step: int, steps: int) -> Tensor:
        """The target's cross-attention map at a step: (..., N, source columns), (..., N, target columns) -> the latter.

        Outside of all windows the target's own map itself.
        """
        share = cross_share(step, steps, self.cross_window, self.columns[1], self.word_windows)
        if not share.any():
            return target
        edited = target
        for edit in self.edits:
            edited = edit(source, edited)
        return edited if share.all() else torch.lerp(target, edited, share.to(target))

    def edits_self(self, step: int, steps: int, layer: Layer, queries: int) -> bool:
        """Whether a self-attention of that many queries is edited at a step."""
        if self.self_layers is not None and layer not in self.self_layers:
            return False
        return self_active(step, steps, self.self_window) and (
            self.most_queries is None or queries <= self.most_queries
        )

    def edits_cross(self, step: int, steps: int) -> bool:
        """Whether any cross-attention is edited at a step."""
        if not self.edits:
            return False
        return bool(cross_share(step, steps, self.cross_window, self.columns[1], self.word_windows).any())


def self_layer_options(choice: str, infos: Sequence[LayerInfo]) -> dict[str, Any]:
    """Fields of a :class:`PromptControl` for one of ``SELF_LAYERS``.

    The published limit is a number of tokens: at 512 pixels it leaves out the finest layers, in smaller pictures none.
    ``all but the finest`` says the same of the layers themselves, so that it holds at any size.

    :raises ValueError: it is none of them.
    """
    if choice not in SELF_LAYERS:
        raise ValueError(f"self_layers is '{choice}'; expected one of {', '.join(SELF_LAYERS)}.")
    if choice == SELF_LAYERS[0]:
        return {"most_queries": OFFICIAL_QUERIES}
    if choice == SELF_LAYERS[2]:
        return {"most_queries": None}
    finest = decoder_resolutions(infos)[0]
    return {"most_queries": None, "self_layers": frozenset(i.layer for i in infos if i.downscale > finest)}


class SourceFeatures:
    """Queries and keys of the source's rows, for targets that a host runs in a later call of the same prediction.

    One object serves one prediction. ``missed`` says that a target came before its source.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, Layer], dict[int, tuple[Tensor, Tensor]]] = {}
        self.missed = False

    def of(self, call: AttentionCall, keep: bool) -> dict[int, tuple[Tensor, Tensor]]:
        """(q (N, C), k (M, C)) of each picture's source, from this call or an earlier one on the same layer.

        :param keep: the call has no target, so a later one will ask.
        """
        found = {call.pictures[i]: (call.q[i], call.k[i]) for i in reversed(call.rows_of(SOURCE))}
        if not found:
            return self._kept.get((call.kind, call.layer), {})
        if keep:
            self._kept[call.kind, call.layer] = found
        return found

    def forget(self) -> None:
        """Begin the prediction anew."""
        self._kept.clear()
        self.missed = False


def step_of(sigma: float, sigmas: Sequence[float]) -> int:
    """Which step of a run a sigma belongs to: the last one that begins at it or above.

    Samplers of higher order read the model between two levels; that still is the step that they are in.

    :param sigmas: (N+1,) descending levels of the run.
    """
    begun = [i for i, level in enumerate(sigmas[:-1]) if level >= sigma * (1 - 1e-4)]
    return begun[-1] if begun else 0


@dataclass(frozen=True, eq=False)
class ControlledAttention:
    """The edit, for self- and cross-attention layers.

    :param sigmas: (N+1,) descending levels of the run; they say which step a call belongs to.
    :param source: where a host that may run source and target in two calls keeps the source's features in between.
    :param words: where the maps of chosen words are gathered for a local blend; None gathers none.
    """

    control: PromptControl
    sigmas: Sequence[float]
    source: SourceFeatures = field(default_factory=SourceFeatures)
    words: WordMaps | None = None

    def __call__(self, call: AttentionCall, earlier: Callable[[AttentionCall], Tensor]) -> Tensor:
        step, steps = step_of(call.sigma, self.sigmas), len(self.sigmas) - 1
        if call.kind == CROSS:
            editing = self.control.edits_cross(step, steps)
            wanted = editing or (self.words is not None and self.words.wants(call.layer))
        else:
            wanted = self.control.edits_self(step, steps, call.layer, call.q.shape[1])
        targets = call.rows_of(TARGET)
        found = self.source.of(call, keep=not targets) if wanted else {}
        if not wanted or not self._complete(found, call, targets):
            return earlier(call)
        if call.kind == CROSS:
            return self._cross(call, earlier, targets, found, (step, steps) if editing else None)
        q, k = call.q.clone(), call.k.clone()
        for i in targets:
            q[i], k[i] = found[call.pictures[i]]
        return earlier(replace(call, q=q, k=k))

    def begin_anew(self) -> None:
        """Forget what an evaluation that has to be repeated left behind."""
        self.source.forget()
        if self.words is not None:
            self.words.forget()

    def _complete(self, found: Mapping[int, object], call: AttentionCall, targets: Sequence[int]) -> bool:
        """Whether there are targets and each has its source; notes when a source has not come yet."""
        if not targets:
            return False
        if all(call.pictures[i] in found for i in targets):
            return True
        self.source.missed = True
        return False

    def _cross(
        self,
        call: AttentionCall,
        earlier: Callable[[AttentionCall], Tensor],
        targets: Sequence[int],
        found: Mapping[int, tuple[Tensor, Tensor]],
        when: tuple[int, int] | None,
    ) -> Tensor:
        mine = call.select(targets)
        source, target, others = self._maps(mine, found)
        if self.words is not None and self.words.wants(call.layer):
            self.words.add(call.grid, mine.pictures, source, target)
        if when is None:
            return earlier(call)
        own = self.control.columns[1]
        edited = torch.cat([self.control.edit_map(source, target, *when), others], dim=-1)
        values = torch.cat([mine.v[:, :own], mine.v[:, mine.v.shape[1] - others.shape[-1] :]], dim=1)
        out = composed(mine, earlier, _apply(edited, values, call.heads))
        if len(targets) == len(call.rows):
            return out
        rest = [i for i in range(len(call.rows)) if i not in targets]
        whole = out.new_empty((len(call.rows), *out.shape[1:]))
        whole[targets] = out
        whole[rest] = earlier(call.select(rest)).to(out)
        return whole

    def _maps(self, mine: AttentionCall, found: Mapping[int, tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
        """Maps of each target row's source, and of the row itself, and what the latter gives to keys that are no words:
        (rows, heads, N, columns) in float32."""
        q = torch.stack([found[picture][0] for picture in mine.pictures]).to(mine.q)
        k = torch.stack([found[picture][1] for picture in mine.pictures]).to(mine.k)
        before, own = self.control.columns
        source, _ = split_columns(attention_map(q, k, mine.heads), before)
        return source, *split_columns(attention_map(mine.q, mine.k, mine.heads), own)


def attention_map(q: Tensor, k: Tensor, heads: int) -> Tensor:
    """softmax(q·kᵀ/√d) in float32: q (B, N, H·d), k (B, M, H·d) -> (B, H, N, M)."""
    q, k = (t.float().unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k))
    return (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)


def split_columns(maps: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """The prompt's columns of a map, and those behind it: (..., r · columns + others) -> (..., columns), (..., others).

    ComfyUI repeats prompts of different lengths to a common one. Copies of a word share its attention, so their sum is
    the word's. Other nodes may append keys of their own, such as image tokens; as many as the prompt has would count as
    a repetition.

    :raises ValueError: fewer columns than the prompt has.
    """
    found = maps.shape[-1]
    if found < columns:
        raise ValueError(
            f"The prompt has {found} text columns where the control was made for {columns}: use the CONDITIONING that "
            "the control was made for."
        )
    text = found // columns * columns
    return maps[..., :text].unflatten(-1, (-1, columns)).sum(-2), maps[..., text:]


def _apply(maps: Tensor, v: Tensor, heads: int) -> Tensor:
    """(B, H, N, M) maps on values (B, M, H·d) -> (B, N, H·d), in the values' dtype."""
    split = v.float().unflatten(-1, (heads, -1)).transpose(1, 2)
    return (maps @ split).transpose(1, 2).flatten(2).to(v)
