"""A call of the UNet under a MODEL's edits.

Before anything is taken for a picture, every call is checked: the rows against the branches and pictures of the
sampler, the tokens against the layer's grid. Where another node changed them (tiles, merged tokens), an edit steps
aside with one warning, or refuses.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...attention.call import CROSS, SELF, UNKNOWN, AttentionCall
from ...attention.layers import Layer
from ...attention.rows import taken
from .attention import fused_attention, plain_attention, preference_of
from .model import EDITS, KEY, PREDICTION, RUN
from .rows import Rows, rows_of
from .runs import Run, read_levels
from .sharing import are_alike, are_twins, may_share, parting_block, share_branches

if TYPE_CHECKING:
    from .edits import PlacedEdit

log = logging.getLogger(__name__)

#: Why an edit leaves a prompt alone that no guider has, such as the empty one of the Perp-Neg patch.
FOREIGN_PROMPT = "a node asks the model under a prompt of its own, or the guider does not say which prompt is positive"

#: Why an edit leaves a call alone that is not at one noise level.
NO_LEVEL = "a call of the model says no noise level, or a different one for each picture"

#: Nodes of ComfyUI that change what a layer's attention is handed, by the module of their patches.
_KNOWN = {"nodes_hypertile": "HyperTile", "nodes_tomesd": "Token Merging"}


@dataclass(frozen=True)
class UNetCall:
    """What a UNet is called with."""

    x: Tensor
    timesteps: Tensor
    context: Any
    y: Any
    control: Any
    options: dict[str, Any]
    more: dict[str, Any]

    @property
    def sigma(self) -> float | None:
        """Noise level of the call; None where it does not say, or says several."""
        return self.read()[0]

    def read(self, beside: Tensor | None = None) -> tuple[float | None, bool | None]:
        """Its noise level, and what else is to be known of it, see :func:`.runs.read_levels`."""
        sigmas = self.options.get("sigmas")
        if sigmas is None:
            return None, None
        levels, other = read_levels(self.options, sigmas, beside)
        return (levels[0] if levels and all(level == levels[0] for level in levels) else None), other

    @property
    def rows(self) -> Rows | None:
        """Which row is whose; None where the batch is not the sampler's."""
        size = (self.x.shape[-2], self.x.shape[-1])
        return rows_of(self.options, self.options.get(KEY, {}).get(PREDICTION), self.x.shape[0], size)

    def handed_to(self, executor: Callable, **changed: Any) -> Tensor:
        """The UNet's output, with some of the arguments changed."""
        call = replace(self, **changed) if changed else self
        return executor(call.x, call.timesteps, call.context, call.y, call.control, call.options, **call.more)


def run_unet(
    executor: Callable,
    x: Tensor,
    timesteps: Tensor,
    context: Any = None,
    y: Any = None,
    control: Any = None,
    transformer_options: dict | None = None,
    **kw: Any,
) -> Tensor:
    """The wrapper around a MODEL's UNet: what its edits do around a call, and in it. Names are ComfyUI's."""
    options = {} if transformer_options is None else transformer_options
    return around_call(partial(_edited, executor), UNetCall(x, timesteps, context, y, control, options, kw))


def around_call(made: Callable[[UNetCall], Tensor], call: UNetCall) -> Tensor:
    """A call of a MODEL with what its edits do around it.

    :param made: the call itself, with what they do in it.
    """
    own = call.options.get(KEY, {})
    for placed in own.get(EDITS, ()):
        if placed.around is not None:
            made = partial(placed.around, made)
    if RUN in own:
        own[RUN].asked = True
    return made(call)


def _edited(executor: Callable, call: UNetCall) -> Tensor:
    """The UNet's output with the edits of the call's options on its layers."""
    placed: Sequence[PlacedEdit] = call.options.get(KEY, {}).get(EDITS, ())
    placed = [one for one in placed if one.edit is not None]
    if not placed:
        return call.handed_to(executor)
    twins = are_twins(call)
    sigma, alike = call.read(None if twins or not may_share(executor, call, placed) else are_alike(call))
    rows = None if sigma is None else call.rows
    placed = acting(call, placed, sigma, rows)
    if not placed or sigma is None or rows is None:
        return call.handed_to(executor)
    text = call.context.shape[1] if isinstance(call.context, Tensor) else 0
    options = laid_over(call.options, placed, rows, sigma, getattr(executor, "class_obj", None), text)
    if alike is None and may_share(executor, call, placed):
        alike = twins or bool(are_alike(call))  # asked for now, where edits that do not act here were in the way
    first = parting_block(call.options, placed) if alike else None
    if first is None:
        return call.handed_to(executor, options=options)
    return share_branches(executor, call, options, first)


def acting(call: UNetCall, placed: Sequence[PlacedEdit], sigma: float | None, rows: Rows | None) -> list[PlacedEdit]:
    """The edits that act on a call; those that can't are told why.

    :param sigma: the call's noise level, None where it has none; ``rows`` are None where they are not the sampler's.
    """
    if sigma is None:
        why = NO_LEVEL
    elif rows is None:
        placed = [one for one in placed if one.acts(sigma)]
        why = (
            f"a call has {call.x.shape[0]} row(s) that are not the sampler's pictures: another node splits or joins "
            "the batch"
        )
    else:
        return [one for one in placed if one.acts(sigma) and _acts_on(one, rows, call.options)]
    for one in placed:
        step_aside(one, call.options, why)
    return []


def laid_over(
    options: dict[str, Any],
    placed: Sequence[PlacedEdit],
    rows: Rows,
    sigma: float,
    unet: Any = None,
    text: int = 0,
) -> dict[str, Any]:
    """The options of a call with edits on top of what is there; copied as deep as they are changed.

    ComfyUI prefers a replacement for one transformer of a block over the one for the whole block.

    :param unet: that is called; its layers may prefer a kernel of attention.
    :param text: tokens of its prompts; 0 where that is not known.
    """
    tables = dict(options.get("patches_replace", {}))
    for kind in {kind for one in placed for kind in one.kinds}:
        present, culprits = tables.get(kind, {}), _culprits(options, kind)
        table = tables[kind] = dict(present)
        for one in (one for one in placed if kind in one.kinds):
            for layer in one.layers:
                at = (layer.block, layer.index, layer.depth)
                before = table.get(at, present.get(at[:2]))
                preferred = None if unet is None else preference_of(unet, layer, kind)
                table[at] = _OnLayer(one, layer, kind, rows, sigma, before, culprits, preferred, text)
    return {**options, "patches_replace": tables}


def _acts_on(placed: PlacedEdit, rows: Rows, options: dict[str, Any]) -> bool:
    """Whether an edit acts on any of these rows."""
    if placed.whole_pictures and not rows.whole:
        why = "a prompt is for an area of the picture only, or another node asks the model in tiles or at another size"
        step_aside(placed, options, why)
        return False
    if not rows.told and not placed.alike:
        why = "the sampler asks for some pictures of its batch only, and does not say for which; sample them one by one"
        step_aside(placed, options, why)
        return False
    if UNKNOWN in rows.branches and not placed.strict:
        step_aside(placed, options, FOREIGN_PROMPT)
    known = set(rows.branches) - {UNKNOWN}
    return bool(known if placed.branches is None else known & placed.branches)


def step_aside(placed: PlacedEdit, options: dict[str, Any], why: str, layer: Layer | None = None) -> None:
    """Say once a run that an edit leaves a call, or a layer of it, as it is.

    :param layer: other layers of the run are left alone as well, for all we know, and are not named anew.
    :raises ValueError: the edit is strict.
    """
    where = "" if layer is None else f"{layer.name} gets "
    if placed.strict:
        raise ValueError(f"{placed.name} can't work here: {where}{why}. Take what does that off this MODEL.")
    text = f"{placed.name} steps aside: {where}{why}."
    run_now: Run | None = options.get(KEY, {}).get(RUN)
    if run_now is None:
        log.warning("%s", text)
    elif layer is None:
        run_now.warn(text)
    else:
        run_now.warn(f"{text} So it does wherever else that happens.", f"{placed.name} on a layer")


@dataclass(frozen=True, eq=False)
class _OnLayer:
    """One edit on one layer in one call of the UNet, as ComfyUI's replacement of that attention.

    :param before: the replacement that stood there, None for none. It is called with the host's whole batch, so that
        it never sees rows that it did not expect.
    :param culprits: who changes what the layer gets, as a remark.
    :param preferred: the kernel that the layer asks ComfyUI's attention for, None for none.
    :param text: tokens of the call's prompts; 0 where that is not known.
    """

    placed: PlacedEdit
    layer: Layer
    kind: str
    rows: Rows
    sigma: float
    before: Callable | None
    culprits: str
    preferred: Any = None
    text: int = 0

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
        """The layer's output before ``to_out``, (rows, N, heads · d)."""
        call = self._call(q, k, v, options)
        wrong = _mismatch(self.placed, call)
        if wrong is not None:
            step_aside(self.placed, options, wrong + self.culprits, self.layer)
            return self._plain(q, k, v, options) if self.before is None else self.before(q, k, v, options)
        before, everything, whole = self.before, call.rows, None

        def earlier(asked: AttentionCall) -> Tensor:
            nonlocal whole
            if before is None:
                # with keys of its own it is no longer the layer's attention, for which ComfyUI's choice is slow on CPUs
                longer = asked.k.shape[1] != k.shape[1]
                return asked.plain() if longer else self._plain(asked.q, asked.k, asked.v, options)
            if asked.rows == everything and (asked.q is not q or asked.k is not k or asked.v is not v):
                return before(asked.q, asked.k, asked.v, options)  # the edit changes what goes in
            if whole is None:  # an edit may ask for some rows now and for others later
                whole = before(q, k, v, options)
            return taken(whole, asked.rows)

        return self.placed.edit(call, earlier)

    def _plain(self, q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
        """What ComfyUI does on this layer when nobody replaced it."""
        return plain_attention(q, k, v, options, self.preferred)

    def _call(self, q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> AttentionCall:
        """ComfyUI's view of the layer, as an :class:`AttentionCall`."""
        rows = self.rows
        return AttentionCall(
            layer=self.layer,
            sigma=self.sigma,
            q=q,
            k=k,
            v=v,
            heads=options["n_heads"],
            branches=rows.branches,
            pictures=rows.pictures,
            rows=tuple(range(len(rows.branches))),
            grid=tuple(options["activations_shape"][-2:]),
            attend=fused_attention(options, self.preferred),
            kind=self.kind,
            alone=self.before is None,
            prediction=rows.prediction,
            whole=rows.whole,
            ranks=rows.ranks,
            text=min(self.text, k.shape[1]) if self.kind == CROSS else 0,
        )


def _mismatch(placed: PlacedEdit, call: AttentionCall) -> str | None:
    """What is wrong with a call, None when it is what it says."""
    (height, width), rows = call.grid, len(call.rows)
    tokens = height * width
    wide = placed.layers[call.layer]
    if call.q.shape[-1] != wide:
        return f"{call.q.shape[-1]} channels where the model that it was made for has {wide}"
    if call.q.shape[0] != rows or call.q.shape[1] != tokens:
        return f"{call.q.shape[0]} row(s) of {call.q.shape[1]} tokens where {rows} of {height} x {width} were expected"
    if call.kind == SELF and (call.k.shape[:2] != call.q.shape[:2] or call.v.shape[:2] != call.q.shape[:2]):
        return f"keys and values of {tuple(call.k.shape[:2])} tokens beside queries of {tuple(call.q.shape[:2])}"
    if call.k.shape[:2] != call.v.shape[:2] or call.k.shape[0] != rows:
        return f"{tuple(call.k.shape[:2])} keys and {tuple(call.v.shape[:2])} values where {rows} row(s) were expected"
    misfit: Callable[[AttentionCall], str | None] | None = getattr(placed.edit, "misfit", None)
    return None if misfit is None else misfit(call)


def _culprits(options: dict[str, Any], kind: str) -> str:
    """Who patched the input of a kind of layers, as a remark."""
    modules = [getattr(patch, "__module__", "") or "" for patch in options.get("patches", {}).get(f"{kind}_patch", ())]
    names = dict.fromkeys(_KNOWN.get(module.rpartition(".")[2], module) for module in modules)
    return f" ({', '.join(filter(None, names))} changed them)" if any(names) else ""
