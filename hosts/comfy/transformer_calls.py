"""A call of a transformer under a MODEL's edits.

One mechanism serves every family: ComfyUI's override of attention, laid over the one that stands there when the model
is called. Which layer runs ComfyUI says in its options, or, for Stable Diffusion 3, a replacement of its blocks that
runs them as they are. How queries and keys were turned comes from patches that look on and change nothing.

An edit gets the picture's tokens as it gets a UNet's; the prompt's stand ``beside`` them. Their rows of the attention
are the plain model's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...attention.call import SELF, AttentionCall
from ...attention.families import LUMINA_2, Z_IMAGE
from ...attention.layers import Layer
from ...attention.rotary import Rotation
from ...attention.rows import taken
from .attention import OVERRIDE, fused_attention
from .calls import UNetCall, acting, around_call, step_aside
from .families.found import known_network
from .families.network import Network
from .model import EDITS, KEY
from .rows import Rows

if TYPE_CHECKING:
    from .edits import PlacedEdit

#: What ComfyUI's options say of the layer that runs, and what is left of it from a call before.
_PLACE = ("block_type", "block_index", "img_slice")

#: Tokens of other pictures (references of an edit model) that stand behind the picture's.
_REFERENCES = "reference_image_num_tokens"


@dataclass(frozen=True)
class ModelCall(UNetCall):
    """What a MODEL is called with, before ComfyUI prepares it for its network."""

    def handed_to(self, executor: Callable, **changed: Any) -> Tensor:
        """The clean estimate, with some of the arguments changed."""
        call = replace(self, **changed) if changed else self
        more = dict(call.more)
        return executor(call.x, call.timesteps, more.pop("c_concat"), call.context, call.control, call.options, **more)


def run_transformer(
    executor: Callable,
    x: Tensor,
    t: Tensor,
    c_concat: Any = None,
    c_crossattn: Any = None,
    control: Any = None,
    transformer_options: dict | None = None,
    **kw: Any,
) -> Tensor:
    """The wrapper around a MODEL: what its edits do around a call, and in it. Names are ComfyUI's."""
    options = {} if transformer_options is None else transformer_options
    call = ModelCall(x, t, c_crossattn, None, control, options, {"c_concat": c_concat, **kw})
    return around_call(partial(_edited, executor), call)


def _edited(executor: Callable, call: UNetCall) -> Tensor:
    """The clean estimate with the edits of the call's options on its layers."""
    placed: Sequence[PlacedEdit] = [one for one in call.options.get(KEY, {}).get(EDITS, ()) if one.edit is not None]
    sigma = call.sigma if placed else None
    rows = None if sigma is None else call.rows
    placed = acting(call, placed, sigma, rows) if placed else placed
    network = known_network(executor.class_obj.diffusion_model) if placed else None
    if not placed or sigma is None or rows is None or network is None:
        return call.handed_to(executor)
    return call.handed_to(executor, options=laid_over(call, placed, rows, sigma, network))


def laid_over(
    call: UNetCall, placed: Sequence[PlacedEdit], rows: Rows, sigma: float, network: Network
) -> dict[str, Any]:
    """The options of a call with edits on top of what is there; copied as deep as they are changed."""
    options = {name: value for name, value in call.options.items() if name not in _PLACE}
    before = options.pop(OVERRIDE, None)
    looking = _Looking(network)
    layers = {layer for one in placed for layer in one.layers}
    on = {layer: tuple(one for one in placed if layer in one.layers) for layer in layers}
    grid = network.layers[0].grid(call.x.shape)
    options[OVERRIDE] = _Laid(network, on, rows, sigma, grid, looking, options, before)
    options["patches"] = looking.among(options.get("patches", {}))
    if not network.named:
        options["patches_replace"] = _named(options.get("patches_replace", {}), layers)
    return options


class _Looking:
    """What patches see of a call that its attention does not say. Lifetime: the call."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.turns: Tensor | None = None
        self.whole = True
        self.itself = not self._apart

    @property
    def _apart(self) -> bool:
        """The prompt is attended to by a layer of its own."""
        return not self.network.family.joint

    def among(self, patches: Mapping[str, Any]) -> dict[str, Any]:
        """A call's patches with those that look on behind them."""
        kinds = {"attn1_patch": self._before_attention}
        if self._apart:
            kinds["attn2_patch"] = self._before_prompt
        if self.network.family in (Z_IMAGE, LUMINA_2):
            kinds = {"noise_refiner": self._after_refining}
        return {**patches, **{kind: [*patches.get(kind, ()), look] for kind, look in kinds.items()}}

    def rotation(self, span: tuple[int, int], tokens: int) -> Rotation | None:
        """How the picture's tokens were turned.

        :param span: of them, among all ``tokens`` of the call.
        """
        if self.turns is None or not self.network.family.rotary:
            return None
        first, last = span
        if not self.whole:  # the picture's end where the call's do
            first, last = (self.turns.shape[1] - tokens + at for at in span)
        return Rotation(self.turns[:, first:last], halves=self._apart)

    def _before_attention(self, *_: Any, pe: Tensor | None = None, **__: Any) -> dict[str, Any]:
        self.itself = True
        if pe is not None:  # (b, 1, N, ...) of joint attention, (1, N, 1, ...) of the other kind
            self.turns = pe.squeeze(2) if self._apart else pe.squeeze(1)
        return {}

    def _before_prompt(self, *_: Any, **__: Any) -> dict[str, Any]:
        self.itself = False
        return {}

    def _after_refining(self, seen: Mapping[str, Any]) -> dict[str, Any]:
        self.turns, self.whole = seen["pe"].squeeze(2), False
        return {}


def _named(tables: Mapping[str, Any], layers: set[Layer]) -> dict[str, Any]:
    """Replacements of blocks that say in the options which one runs, around those that stand there."""
    blocks = dict(tables.get("dit", {}))
    for layer in layers:
        key = ("double_block", layer.index)
        blocks[key] = _Named(layer, blocks.get(key))
    return {**tables, "dit": blocks}


@dataclass(frozen=True, eq=False)
class _Named:
    """A block as it is, or as another pack replaced it, whose options name it."""

    layer: Layer
    before: Callable | None

    def __call__(self, args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        named = {**args["transformer_options"], "block_type": self.layer.block, "block_index": self.layer.index}
        args = {**args, "transformer_options": named}
        return extra["original_block"](args) if self.before is None else self.before(args, extra)


@dataclass(frozen=True, eq=False)
class _Laid:
    """The edits of one call of a MODEL, as ComfyUI's override of its attention.

    :param on: of each layer its edits, the last one on top.
    :param grid: (height, width) of the picture's tokens.
    :param options: of the call, with ``before`` for what edits compute.
    :param before: the override that stood there, None for none.
    """

    network: Network
    on: Mapping[Layer, tuple[PlacedEdit, ...]]
    rows: Rows
    sigma: float
    grid: tuple[int, int]
    looking: _Looking
    options: dict[str, Any]
    before: Callable | None

    def __call__(
        self,
        function: Callable,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        heads: int,
        mask: Tensor | None = None,
        *args: Any,
        **named: Any,
    ) -> Tensor:
        """Attention of any layer; names are ComfyUI's."""
        options = named.get("transformer_options") or {}
        placed = self.on.get(self._layer(options), ()) if self.looking.itself else ()
        plain = partial(self._through, function, heads=heads, mask=mask, args=args, named=named)
        if not placed:
            return plain(q, k, v)
        by_head = named.get("skip_reshape", False)
        span = self.network.span(q.shape[2 if by_head else 1], self.grid, sum(options.get(_REFERENCES, ())))
        if span is None and self.network.family.joint and q.shape[2 if by_head else 1] == self.grid[0] * self.grid[1]:
            return plain(q, k, v)  # the picture's tokens among themselves, beside the layer's own attention
        call = None if span is None else self._call(_Tokens(q, k, v, by_head), span, heads, options)
        placed = [one for one in placed if self._serves(one, call, mask, options)]
        if not placed or call is None or span is None:
            return plain(q, k, v)
        return _Output(plain, _Tokens(q, k, v, by_head), span, named.get("skip_output_reshape", False)).edited(
            call, placed
        )

    def _layer(self, options: Mapping[str, Any]) -> Layer | None:
        """The layer that runs; None where it is none of the picture's own, such as one that refines."""
        index = options.get("block_index")
        block = "block" if not self.network.family.joint else options.get("block_type")
        return None if index is None or block is None else Layer(block, index)

    def _through(
        self,
        function: Callable,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        heads: int,
        mask: Tensor | None,
        args: tuple,
        named: dict[str, Any],
    ) -> Tensor:
        """Attention as it would have been without the edits."""
        if self.before is None:
            return function(q, k, v, heads, mask, *args, **named)
        return self.before(function, q, k, v, heads, mask, *args, **named)

    def _call(
        self, tokens: _Tokens, span: tuple[int, int], heads: int, options: Mapping[str, Any]
    ) -> AttentionCall | None:
        """The picture's part of a call; None where its batch is not the sampler's."""
        layer = self._layer(options)
        if layer is None:
            return None
        rows, (first, last) = self.rows, span
        q, k, v = tokens.flat
        asked = {**self.options, **{name: options[name] for name in _PLACE if name in options}}
        asked.pop(OVERRIDE, None)
        if self.before is not None:
            asked[OVERRIDE] = self.before
        return AttentionCall(
            layer=layer,
            sigma=self.sigma,
            q=q[:, first:last],
            k=k[:, first:last],
            v=v[:, first:last],
            heads=heads,
            branches=rows.branches,
            pictures=rows.pictures,
            rows=tuple(range(len(rows.branches))),
            grid=self.grid,
            attend=fused_attention(asked),
            kind=SELF,
            prediction=rows.prediction,
            whole=rows.whole,
            ranks=rows.ranks,
            beside=(_without(k, span), _without(v, span)) if k.shape[1] > last - first else None,
            rotation=self.looking.rotation(span, q.shape[1]),
        )

    def _serves(
        self, placed: PlacedEdit, call: AttentionCall | None, mask: Tensor | None, options: dict[str, Any]
    ) -> bool:
        """Whether an edit can work on a layer; if not, it steps aside or refuses."""
        if call is None:
            wrong = f"tokens that are not the {self.grid[0]} x {self.grid[1]} of one picture and its prompt"
        elif call.q.shape[-1] != placed.layers[call.layer]:
            wrong = f"{call.q.shape[-1]} channels where the model that it was made for has {placed.layers[call.layer]}"
        elif call.q.shape[0] != len(call.rows) or call.k.shape[:2] != call.q.shape[:2]:
            wrong = (
                f"{call.q.shape[0]} row(s) of queries and {call.k.shape[0]} of keys where {len(call.rows)} are asked"
            )
        elif mask is not None and not getattr(placed.edit, "reads", False):
            wrong = "a mask on its prompt's tokens"
        else:
            misfit: Callable[[AttentionCall], str | None] | None = getattr(placed.edit, "misfit", None)
            wrong = None if misfit is None else misfit(call)
        if wrong is not None:
            layer = self._layer(options)
            step_aside(placed, options, wrong, layer)
        return wrong is None


@dataclass(frozen=True)
class _Tokens:
    """q, k and v of a call, (rows, heads, N, d) where they are ``by_head``, else (rows, N, heads · d)."""

    q: Tensor
    k: Tensor
    v: Tensor
    by_head: bool

    @property
    def flat(self) -> tuple[Tensor, Tensor, Tensor]:
        """Each (rows, N, heads · d)."""
        # without heads of its own, a tensor may still have them as an axis behind the tokens'
        q, k, v = (t.transpose(1, 2).flatten(2) if self.by_head else t.flatten(2) for t in (self.q, self.k, self.v))
        return q, k, v


class _Output:
    """The output of a layer whose picture's rows are edited. Lifetime: the call.

    :param plain: q, k, v -> the attention without the edits.
    :param span: of the picture's tokens.
    :param apart: it is (rows, heads, N, d), else (rows, N, heads · d).
    """

    def __init__(self, plain: Callable[..., Tensor], tokens: _Tokens, span: tuple[int, int], apart: bool) -> None:
        self._plain, self._tokens, self._span, self._apart = plain, tokens, span, apart
        self._whole: Tensor | None = None

    def edited(self, call: AttentionCall, placed: Sequence[PlacedEdit]) -> Tensor:
        """The whole output under edits, the last one on top."""
        made: Callable[[AttentionCall], Tensor] = self._before(call)
        for number, one in enumerate(placed):
            made = partial(_under, one, made, number == 0)
        picture = made(call)
        first, last = self._span
        whole = self._whole
        if whole is None:
            whole = self._around(picture)
        elif picture.data_ptr() == whole[:, first:last].data_ptr():
            return self._as_asked(whole)  # it is what it was
        whole[:, first:last] = picture
        return self._as_asked(whole)

    def _before(self, call: AttentionCall) -> Callable[[AttentionCall], Tensor]:
        """What the picture's rows would have been."""

        def earlier(asked: AttentionCall) -> Tensor:
            changed = asked.rows == call.rows and not all(
                a is b for a, b in zip((asked.q, asked.k, asked.v), (call.q, call.k, call.v), strict=True)
            )
            if changed:
                return asked.plain()  # the edit changes what goes in
            if self._whole is None:
                tokens = self._tokens
                whole = self._plain(tokens.q, tokens.k, tokens.v)
                self._whole = whole.transpose(1, 2).flatten(2) if self._apart else whole
            return taken(self._whole[:, self._span[0] : self._span[1]], asked.rows)

        return earlier

    def _around(self, picture: Tensor) -> Tensor:
        """(rows, N, heads · d) with the rows of all tokens but the picture's as they would have been."""
        tokens, (first, last) = self._tokens, self._span
        axis = 2 if tokens.by_head else 1
        number = tokens.q.shape[axis]
        whole = picture.new_empty((len(picture), number, picture.shape[-1]))
        for part in (slice(0, first), slice(last, number)):
            if part.stop > part.start:
                queries = tokens.q[:, :, part] if tokens.by_head else tokens.q[:, part]
                made = self._plain(queries, tokens.k, tokens.v)
                whole[:, part] = made.transpose(1, 2).flatten(2) if self._apart else made
        return whole

    def _as_asked(self, whole: Tensor) -> Tensor:
        if not self._apart:
            return whole
        heads = self._tokens.q.shape[1]
        return whole.unflatten(-1, (heads, -1)).transpose(1, 2)


def _under(placed: PlacedEdit, earlier: Callable[[AttentionCall], Tensor], alone: bool, call: AttentionCall) -> Tensor:
    """One edit over what stands below it."""
    if placed.edit is None:
        return earlier(call)
    return placed.edit(replace(call, alone=alone), earlier)


def _without(tokens: Tensor, span: tuple[int, int]) -> Tensor:
    """(rows, N, C) without those of a span."""
    return torch.cat([tokens[:, : span[0]], tokens[:, span[1] :]], 1)
