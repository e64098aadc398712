"""Prompt-to-prompt control (Hertz et al. 2022, arXiv 2208.01626) as attention edits: a target follows a source.

Two prompts are denoised side by side. Where the source's attention *looks* is handed to the target, the values that it
*sees* stay the target's:

* self-attention: the target's map becomes the source's. softmax(q_s·k_sᵀ/√d) · v_t is one fused attention call with the
  source's queries and keys and the target's values, so no map is ever built;
* cross-attention: the source's map (tokens by words) is edited and used on the target's words (``map_edits``). These
  maps are small and are built for the rows that need them only.

Both happen in windows of the run (``windows``). Nothing here counts: the host says which step of how many a call
belongs to, and which row is which branch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..diffusion.levels import step_of
from .call import CONDITIONAL, CROSS, AttentionCall, composed, on_rows
from .layers import Layer, LayerInfo, decoder_resolutions
from .map_edits import MapEdit, apply_map, attention_map, edit_on, split_columns
from .rows import compact
from .windows import Window, cross_active, cross_share, self_active, window_bounds
from .word_maps import WordMaps

#: Branches of a controlled run, beside 0 (the target's conditional prediction) and 1 (its unconditional one).
TARGET = CONDITIONAL
SOURCE = 2
SOURCE_UNCONDITIONAL = 3

#: Self-attention maps with more queries are left alone by the published programs (32 x 32 tokens).
OFFICIAL_QUERIES = 1024

#: The self-attention layers that follow the source; see :func:`self_layer_options`.
SelfLayers = Literal["official (up to 1024 tokens)", "all but the finest", "all"]

#: (q (N, H·d), k (M, H·d)) of each picture's source, by picture.
Sources = Mapping[int, tuple[Tensor, Tensor]]


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

        Beyond all windows it is the target's map as it came.
        """
        active = self._active(step, steps)
        if not any(active):
            return target
        edited = target
        for edit in self.edits:
            edited = edit(source, edited)
        if all(active):
            return edited
        share = cross_share(step, steps, self.cross_window, self.columns[1], self.word_windows, target.device)
        return torch.lerp(target, edited, share.to(target))

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
        return any(self._active(step, steps))

    def on(self, device: torch.device) -> PromptControl:
        """The same with the edits' tables on a device, for one run."""
        return replace(self, edits=tuple(edit_on(edit, device) for edit in self.edits))

    def _active(self, step: int, steps: int) -> set[bool]:
        """Whether cross-attention is edited at a step, of all columns."""
        others = {cross_active(step, steps, window) for window in self.word_windows.values()}
        common = len(self.word_windows) < self.columns[1]
        return others | ({cross_active(step, steps, self.cross_window)} if common else set())


def self_layer_options(choice: SelfLayers, infos: Sequence[LayerInfo]) -> dict[str, Any]:
    """Fields of a :class:`PromptControl` for a choice of layers.

    The published limit is a number of tokens: at 512 pixels it leaves out the finest layers, in smaller pictures none.
    ``all but the finest`` says the same of the layers themselves, so that it holds at any size.

    :raises ValueError: there is no such choice.
    """
    if choice == "official (up to 1024 tokens)":
        return {"most_queries": OFFICIAL_QUERIES}
    if choice == "all":
        return {"most_queries": None}
    if choice != "all but the finest":
        raise ValueError(f"self_layers is '{choice}'; expected one of {', '.join(get_args(SelfLayers))}.")
    finest = decoder_resolutions(infos)[0]
    return {"most_queries": None, "self_layers": frozenset(i.layer for i in infos if i.downscale > finest)}


class SourceFeatures:
    """Queries and keys of the source's rows, for targets that a host runs in a later call of the same prediction.

    What is kept holds nothing of the other rows in memory.

    Lifetime: one prediction. Its owner is the prediction's :class:`ControlledAttention`, whose ``clear`` empties it.

    :ivar missed: a target came before its source.
    :ivar keep_all: keep what comes together with its target as well: guidance will ask for the target once more.
    :ivar frozen: keep nothing more.
    """

    def __init__(self) -> None:
        self._features: dict[tuple[str, Layer], Sources] = {}
        self.missed = self.keep_all = self.frozen = False

    def of(self, call: AttentionCall, keep: bool) -> Sources:
        """Each picture's source features, from this call or an earlier one on the same layer.

        :param keep: the call has no target, so a later one will ask.
        """
        rows = call.select(call.rows_of(SOURCE))
        if not rows.pictures:
            return self._features.get((call.kind, call.layer), {})
        kept = (keep or self.keep_all) and not self.frozen
        q, k = (compact(rows.q), compact(rows.k)) if kept else (rows.q, rows.k)
        features = {rows.pictures[i]: (q[i], k[i]) for i in reversed(range(len(rows.pictures)))}
        if kept:
            self._features[call.kind, call.layer] = features
        return features

    def as_seen(self) -> SourceFeatures:
        """What is kept now, for calls that must not change it."""
        seen = SourceFeatures()
        seen._features, seen.frozen = self._features, True
        return seen

    def clear(self) -> None:
        """Let everything go."""
        self._features.clear()
        self.missed = False


@dataclass(frozen=True, eq=False)
class ControlledAttention:
    """The edit, for self- and cross-attention layers.

    It is made for one prediction, and owns what is kept in it: whoever made it calls :meth:`clear` when the prediction
    is done (``pipelines.vct_pair.ControlledRun``), or has to be repeated.

    :param sigmas: (N+1,) descending levels of the run; they say which step a call belongs to.
    :param source: where a host that may run source and target in two calls keeps the source's features in between.
    :param words: where the maps of chosen words are gathered for a local blend; None gathers none.
    """

    control: PromptControl
    sigmas: Sequence[float]
    source: SourceFeatures = field(default_factory=SourceFeatures)
    words: WordMaps | None = None

    def __call__(self, call: AttentionCall, earlier: Callable[[AttentionCall], Tensor]) -> Tensor:
        """The call with each target row under its source row's maps, as an edit (``attention.call.Edit``)."""
        step, steps = step_of(call.sigma, self.sigmas), len(self.sigmas) - 1
        gathers = call.kind == CROSS and self.words is not None and call.layer in self.words.layers
        if call.kind == CROSS:
            edits = self.control.edits_cross(step, steps)
        else:
            edits = self.control.edits_self(step, steps, call.layer, call.q.shape[1])
        if not edits and not gathers:
            return earlier(call)
        targets = call.rows_of(TARGET)
        sources = self.source.of(call, keep=not targets)
        if not self._complete(sources, call, targets):
            return earlier(call)
        if call.kind == CROSS:
            return self._cross(call, earlier, targets, sources, (step, steps) if edits else None)
        q, k = call.q.clone(), call.k.clone()
        for i in targets:
            q[i], k[i] = sources[call.pictures[i]]
        return earlier(replace(call, q=q, k=k))

    def repeated(self) -> ControlledAttention:
        """The same for further calls of the prediction, which guidance makes: they see the source as it was."""
        return replace(self, source=self.source.as_seen(), words=None)

    def clear(self) -> None:
        """Let go of what the prediction left behind."""
        self.source.clear()
        if self.words is not None:
            self.words.clear()

    def _complete(self, sources: Sources, call: AttentionCall, targets: Sequence[int]) -> bool:
        """Whether there are targets and each has its source; notes when a source has not come yet."""
        if not targets:
            return False
        if all(call.pictures[i] in sources for i in targets):
            return True
        self.source.missed = True
        return False

    def _cross(
        self,
        call: AttentionCall,
        earlier: Callable[[AttentionCall], Tensor],
        targets: Sequence[int],
        sources: Sources,
        when: tuple[int, int] | None,
    ) -> Tensor:
        """(rows, N, H·d), the targets' rows edited at a step (of so many); None only gathers words' maps."""
        if when is None:
            self._maps(call.select(targets), sources)
            return earlier(call)

        def edited(rows: AttentionCall) -> Tensor:
            source, target, others = self._maps(rows, sources)
            columns = self.control.columns[1]
            maps = torch.cat([self.control.edit_map(source, target, *when), others], dim=-1)
            values = torch.cat([rows.v[:, :columns], rows.v[:, rows.v.shape[1] - others.shape[-1] :]], dim=1)
            return composed(rows, earlier, apply_map(maps, values, rows.heads))

        return on_rows(call, targets, edited, earlier)

    def _maps(self, rows: AttentionCall, sources: Sources) -> tuple[Tensor, Tensor, Tensor]:
        """Maps of each target row's source, of the row itself, and what the latter gives to keys that are no words.

        All are (rows, heads, N, columns) in float32. Those of chosen words are gathered.
        """
        q = torch.stack([sources[picture][0] for picture in rows.pictures]).to(rows.q)
        k = torch.stack([sources[picture][1] for picture in rows.pictures]).to(rows.k)
        of_source, of_target = self.control.columns
        appended = rows.k.shape[1] - rows.text_keys
        source, _ = split_columns(attention_map(q, k, rows.heads), of_source, appended)
        target, others = split_columns(attention_map(rows.q, rows.k, rows.heads), of_target, appended)
        if self.words is not None and rows.layer in self.words.layers:
            self.words.add(rows.grid, rows.pictures, source, target)
        return source, target, others
