"""Attention edits in a MODEL: asked for by replacements that stand on top of what other packs installed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.samplers
import torch
from torch import Tensor

from ...attention.call import CONDITIONAL, SELF, AttentionCall, Edit, batch_layout
from ...attention.layers import Layer
from .attention import fused_attention, plain_attention
from .model import KEY
from .sharing import OURS, share_branches


def install_edit(model: Any, edit: Edit, layers: Iterable[Layer], kinds: Sequence[str] = (SELF,)) -> Any:
    """A clone of the MODEL whose self-attention layers (or those of the given kinds) ask ``edit``.

    A replacement that stands on a layer already becomes the edit's ``earlier``. It is called with the host's whole
    batch, so that it never sees rows that it did not expect.
    """
    patched = model.clone()
    chosen = frozenset(layers)
    options = patched.model_options.get("transformer_options", {})
    blocks = sorted({(layer.block, layer.index) for layer in chosen})
    for kind in kinds:
        present = dict(options.get("patches_replace", {}).get(kind, {}))
        install = patched.set_model_attn1_replace if kind == SELF else patched.set_model_attn2_replace
        for block, index in blocks:
            install(replacement(edit, chosen, kind, present.get((block, index))), block, index)
        for key in present:
            # ComfyUI prefers a replacement for one transformer of a stack over the one for the whole block
            if len(key) == 3 and Layer(*key) in chosen:
                install(replacement(edit, chosen, kind, present[key]), *key)
    return share_branches(patched, KEY)


def with_edit(
    model_options: dict[str, Any], edit: Edit, layers: Iterable[Layer], kinds: Sequence[str] = (SELF,)
) -> dict[str, Any]:
    """Model options of one model call under an edit: for guiders, whose edits change from call to call.

    :returns: a copy; the edit stands on top of whatever was on its layers.
    """
    changed = {**model_options, "transformer_options": {**model_options.get("transformer_options", {})}}
    chosen = frozenset(layers)
    blocks = {(layer.block, layer.index) for layer in chosen}
    for kind in kinds:
        present = dict(changed["transformer_options"].get("patches_replace", {}).get(kind, {}))
        for key in (*sorted(blocks), *(key for key in present if len(key) == 3 and Layer(*key) in chosen)):
            patch = replacement(edit, chosen, kind, present.get(key))
            comfy.model_patcher.set_model_options_patch_replace(changed, patch, kind, *key)
    return changed


def replacement(edit: Edit, layers: frozenset[Layer], kind: str, before: Callable | None) -> Callable:
    """A closure, not an object: some ComfyUI versions copy callable objects whenever a MODEL is cloned."""

    def replace(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
        block, index = options["block"][:2]
        layer = Layer(block, index, options.get("block_index", 0))

        whole: Tensor | None = None

        def earlier(call: AttentionCall) -> Tensor:
            nonlocal whole
            if before is None:
                return plain_attention(call.q, call.k, call.v, options)
            if call.rows == everything and (call.q is not q or call.k is not k or call.v is not v):
                return before(call.q, call.k, call.v, options)  # the edit changes what goes in, not what comes out
            if whole is None:  # an edit may ask for some rows now and for others later
                whole = before(q, k, v, options)
            return whole.index_select(0, torch.tensor(call.rows, device=whole.device))

        call = dataclasses.replace(attention_call(layer, q, k, v, options, kind), alone=before is None)
        everything = call.rows
        return edit(call, earlier) if layer in layers else earlier(call)

    # a layer that others replaced first is not ours alone
    setattr(replace, OURS, before is None or getattr(before, OURS, False))
    return replace


def attention_call(
    layer: Layer, q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any], kind: str = SELF
) -> AttentionCall:
    """ComfyUI's view of an attention layer, as an :class:`AttentionCall`."""
    branches, pictures = batch_layout(options.get("cond_or_uncond", [CONDITIONAL]), q.shape[0])
    return AttentionCall(
        layer=layer,
        sigma=float(options["sigmas"][0]),
        q=q,
        k=k,
        v=v,
        heads=options["n_heads"],
        branches=branches,
        pictures=pictures,
        rows=tuple(range(q.shape[0])),
        grid=tuple(options["activations_shape"][-2:]),
        attend=fused_attention(options),
        kind=kind,
    )
