"""What sockets of the pack's own types may carry that is of that type, and yet none of it."""

from __future__ import annotations

from dataclasses import replace

import torch

from comfyui_exemplar.attention.bank import FeatureBank
from comfyui_exemplar.memory.features import joined_features

from ....fixtures.odd import INFINITE, NAN, spoiled


def _bank(inversion, change=lambda tensor: tensor, keep=lambda sigma, layer, letter: True, grid=lambda grid: grid):
    made = FeatureBank()
    for sigma, layer, letter, tensor in inversion.bank.items():
        if keep(sigma, layer, letter):
            made.put(sigma, layer, grid(inversion.bank.grid(layer)), **{letter: change(tensor)})
    return replace(inversion, bank=made)


def _plan(**changes):
    return lambda good: replace(good, plan=replace(good.plan, **{k: v(good.plan) for k, v in changes.items()}))


def _way(change):
    return lambda good: replace(good, trajectory=change(good.trajectory))


#: Of an INVERSION, whatever it was made for.
INVERSIONS = {
    "another model's": lambda good: replace(good, model="SDXL-0000"),
    "a way of NaN": _way(lambda way: way * NAN),
    "NaN in the last level": _way(lambda way: spoiled(way, NAN)),
    "a way without levels": _way(lambda way: way[:0]),
    "a way that is cut off": _way(lambda way: way[:-1]),
    "a way of huge numbers": _way(lambda way: way * 1e30),
    "a way of whole numbers": _way(lambda way: way.long()),
    "a way of four axes": _way(lambda way: way[0]),
    "no way": _way(lambda way: None),
    "a list for a way": _way(lambda way: way.tolist()),
    "no pictures": _way(lambda way: way[:, :0]),
    "twice the channels": _way(lambda way: torch.cat([way, way], 2)),
    "half the channels": _way(lambda way: way[:, :, :2]),
    "no plan": lambda good: replace(good, plan=None),
    "a plan of NaN": _plan(levels=lambda plan: tuple(NAN for _ in plan.levels)),
    "a plan of infinity": _plan(levels=lambda plan: (*plan.levels[:-1], INFINITE)),
    "a plan without levels": _plan(levels=lambda _: ()),
    "a plan that falls": _plan(levels=lambda plan: plan.levels[::-1]),
    "a way back of NaN": _plan(sigmas=lambda plan: tuple(NAN for _ in plan.sigmas)),
    "a way back that rises": _plan(sigmas=lambda plan: plan.sigmas[::-1]),
    "no bank": lambda good: replace(good, bank=None),
}

#: Of an INVERSION with features.
KEPT = {
    "NaN in all features": lambda good: _bank(good, lambda tensor: tensor * NAN),
    "huge features": lambda good: _bank(good, lambda tensor: tensor.float() + 1e30),
    "features of whole numbers": lambda good: _bank(good, lambda tensor: tensor.long()),
    "features of half the width": lambda good: _bank(good, lambda tensor: tensor[..., ::2]),
    "features of fewer tokens": lambda good: _bank(good, lambda tensor: tensor[:, 1:]),
    "features of two pictures": lambda good: _bank(good, lambda tensor: torch.cat([tensor, tensor])),
    "features of no picture": lambda good: _bank(good, lambda tensor: tensor[:0]),
    "features of another grid": lambda good: _bank(good, grid=lambda grid: (grid[0], grid[1] + 1)),
    "a level without features": lambda good: _bank(good, keep=lambda s, *_: s != good.bank.sigmas[0]),
    "a layer without features": lambda good: _bank(
        good, keep=lambda s, at, _: s != good.bank.sigmas[0] or at != good.bank.layers[0]
    ),
    "no layers": lambda good: replace(good, layers=()),
}

#: Of an INVERSION that must have features.
NEEDED = {"no features": lambda good: replace(good, bank=FeatureBank())}

PIVOTS = {
    "another model's": lambda good: replace(good, model="SDXL-0000"),
    "contexts of NaN": lambda good: replace(good, contexts=good.contexts * NAN),
    "one NaN in the last context": lambda good: replace(good, contexts=spoiled(good.contexts, NAN)),
    "contexts of twice the width": lambda good: replace(good, contexts=good.contexts.repeat(1, 1, 2)),
    "contexts of one axis less": lambda good: replace(good, contexts=good.contexts[0]),
    "a context missing": lambda good: replace(good, contexts=good.contexts[:-1]),
    "no contexts": lambda good: replace(good, contexts=None),
    "a way of NaN": lambda good: replace(good, trajectory=good.trajectory * NAN),
    "a way that is cut off": lambda good: replace(good, trajectory=good.trajectory[:-1]),
    "a way of another size": lambda good: replace(good, trajectory=good.trajectory[..., :8, :8]),
    "a way of half the channels": lambda good: replace(good, trajectory=good.trajectory[:, :, :2]),
    "levels of NaN": lambda good: replace(good, levels=tuple(NAN for _ in good.levels)),
    "levels that rise": lambda good: replace(good, levels=good.levels[::-1]),
    "other levels": lambda good: replace(good, levels=tuple(level * 1.1 for level in good.levels)),
    "a cfg of NaN": lambda good: replace(good, cfg=NAN),
    "no cfg": lambda good: replace(good, cfg=0.0),
}


def _tokens(change):
    return lambda good: replace(good, tokens={kind: change(tensor) for kind, tensor in good.tokens.items()})


TOKENS = {
    "NaN": _tokens(lambda tensor: tensor * NAN),
    "one NaN": _tokens(lambda tensor: spoiled(tensor, NAN)),
    "huge": _tokens(lambda tensor: tensor + 1e30),
    "twice the width": _tokens(lambda tensor: tensor.repeat(1, 1, 2)),
    "half the width": _tokens(lambda tensor: tensor[..., ::2]),
    "two axes": _tokens(lambda tensor: tensor[0]),
    "no pictures": _tokens(lambda tensor: tensor[:0]),
    "whole numbers": _tokens(lambda tensor: tensor.long()),
    "a list": _tokens(lambda tensor: tensor.tolist()),
    "none": lambda good: replace(good, tokens={}),
    "of another kind": lambda good: replace(good, tokens={"content": next(iter(good.tokens.values()))}),
    "without projections": lambda good: replace(good, projections={}),
    "projections of NaN": lambda good: replace(
        good, projections={at: (k * NAN, v) for at, (k, v) in good.projections.items()}
    ),
    "projections of other layers": lambda good: replace(good, projections=dict(list(good.projections.items())[:-1])),
    "another model's width": lambda good: replace(
        good, hidden=2 * good.hidden, tokens={kind: t.repeat(1, 1, 2) for kind, t in good.tokens.items()}
    ),
}


def _keys(change):
    return lambda good: replace(good, keys=replace(good.keys, data=change(good.keys.data)))


MEMORIES = {
    "keys of NaN": _keys(lambda data: data * NAN),
    "one NaN in the keys": _keys(lambda data: spoiled(data, NAN)),
    "keys of half the width": _keys(lambda data: data[:, ::2]),
    "infinite weights": lambda good: replace(good, weight=good.weight * INFINITE),
    "huge colors": lambda good: replace(good, chroma=good.chroma + 1e30),
    "sources that are not named": lambda good: replace(good, sources=()),
    "another model's": lambda good: replace(good, made=replace(good.made, fingerprint="SDXL-0000")),
    "another level's": lambda good: replace(
        good, made=replace(good.made, spaces=tuple(replace(s, level=9.0) for s in good.made.spaces))
    ),
}

FEATURES = {
    "of two pictures": lambda good: replace(
        good,
        kept=joined_features([good.kept, good.kept]),
        lightness=torch.cat([good.lightness, good.lightness]),
    ),
    "lightness of NaN": lambda good: replace(good, lightness=good.lightness * NAN),
    "another picture's": lambda good: replace(good, lightness=100 - good.lightness),
    "no lightness": lambda good: replace(good, lightness=None),
    "nothing kept": lambda good: replace(good, kept=None),
    "keys of NaN": lambda good: replace(good, kept=replace(good.kept, keys=tuple(k * NAN for k in good.kept.keys))),
    "lightness of another grid": lambda good: replace(good, lightness=good.lightness[:, 1:]),
}

#: Nodes whose INVERSIONs must have features.
_LOOK = ("ExemplarDualAttentionColor", "ExemplarAttentionMap", "ExemplarConfidenceBlend")
#: Where nothing says which MODEL is meant.
_NO_MODEL = ("ExemplarAttentionMap", "ExemplarConfidenceBlend", "ExemplarSaveInversion")
_OF_A_MODEL = ("another model's", "twice the channels", "half the channels")


def contents(node_id, item):
    """Name -> a good value -> an odd one, for an input."""
    kind = item.get_io_type()
    if kind == "PIVOTS":
        return PIVOTS
    if kind == "COLOR_FEATURES":
        return FEATURES
    if kind == "COLOR_MEMORY":
        others = ("another model's", "another level's")  # where nothing says which is meant
        alone = node_id == "ExemplarSaveMemory" or item.id == "memory_1"
        return {name: change for name, change in MEMORIES.items() if not (alone and name in others)}
    if kind == "DEADIFF_TOKENS":
        odd = dict(TOKENS)
        if node_id == "ExemplarDEADiffEncode":  # meets its MODEL later
            odd.pop("projections of other layers")
        return odd
    if kind != "INVERSION":
        return {}
    kept = {} if node_id in ("ExemplarPivotInversion", "ExemplarConceptFusion", "ExemplarPromptControl") else KEPT
    odd = INVERSIONS | kept | (NEEDED if node_id in _LOOK or node_id == "ExemplarColorize" else {})
    return {name: change for name, change in odd.items() if node_id not in _NO_MODEL or name not in _OF_A_MODEL}
