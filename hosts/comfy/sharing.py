"""Guidance without doing half of the work twice.

Colorization guidance runs one latent under one prompt in two branches that differ in edited decoder layers only. Until
the first of these, both rows of the batch hold the same numbers. That part is run once, and the batch grows to its full
size where the branches part: on SD 1.x that saves about half of the second row.

It steps aside whenever it cannot be sure: another pack's patch, a ControlNet, different prompts, an edited encoder
layer. Then everything runs as ComfyUI planned it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import comfy.patcher_extension
import torch
from torch import Tensor

from ...attention.call import SELF
from .model import KEY, PREDICTION

if TYPE_CHECKING:
    from .calls import UNetCall
    from .edits import PlacedEdit

_Wrappers = comfy.patcher_extension.WrappersMP
_WRAPPER = _Wrappers.DIFFUSION_MODEL


def may_share(executor: Callable, call: UNetCall, placed: Sequence[PlacedEdit]) -> bool:
    """Whether the branches of a call can be run as one, if only their numbers are the same.

    :param placed: the edits in it.
    """
    copies, x, context, y = _copies(call), call.x, call.context, call.y
    if copies < 2 or call.control is not None or call.more or parting_block(call.options, placed) is None:
        return False
    if not isinstance(context, Tensor) or x.shape[0] % copies or context.shape[0] != x.shape[0]:
        return False
    if y is not None and x.shape[0] != copies:
        return False  # SDXL's labels come a row a picture and cannot be broadcast
    return _is_stock(getattr(executor, "class_obj", None))


def are_twins(call: UNetCall) -> bool:
    """Whether the branches of a call are known to be alike without looking at their numbers.

    Both sides of guidance have one prompt (:func:`.rows.guider_twins`), and nobody stands between guidance and the UNet
    who could make their rows differ. Labels (``y``) may depend on the side.
    """
    prediction, wrappers = call.options.get(KEY, {}).get(PREDICTION), call.options.get("wrappers", {})
    between = (_Wrappers.PREDICT_NOISE, _Wrappers.CALC_COND_BATCH, _Wrappers.APPLY_MODEL)
    foreign = any(group for kind in between for key, group in wrappers.get(kind, {}).items() if key != KEY)
    changed = any(wrappers.get(_Wrappers.APPLY_MODEL, {}).values())  # also by our own
    uuids = call.options.get("uuids", ())
    return (
        prediction is not None
        and not (foreign or changed)
        and call.y is None
        and len(uuids) == _copies(call)
        and set(uuids) <= prediction.twins
    )


def are_alike(call: UNetCall) -> Tensor:
    """() of bool, on the device: whether all branches of a call have the same numbers as input."""
    copies, timesteps = _copies(call), call.timesteps
    same = [(timesteps == timesteps[0]).all()]
    for t in (call.x, call.context, call.y):
        if t is not None:
            first, *others = t.chunk(copies)
            same += [(chunk == first).all() for chunk in others]
    return torch.stack(same).all()


def _copies(call: UNetCall) -> int:
    """How many branches a call has."""
    return len(call.options.get("cond_or_uncond", ()))


def share_branches(executor: Callable, call: UNetCall, options: dict[str, Any], first: int) -> Tensor:
    """The UNet's output for a call, what its branches have in common computed once.

    :param options: the call's, with the edits in them.
    :param first: block where the branches part, see :func:`parting_block`.
    """
    x, copies = call.x, _copies(call)
    rows = x.shape[0] // copies

    def grow(t: Tensor) -> Tensor:
        return t.repeat(copies, *[1] * (t.ndim - 1)) if t.shape[0] == rows else t

    def part(h: Tensor, skip: Tensor, at: dict) -> tuple[Tensor, Tensor]:
        return (grow(h), grow(skip)) if at["block"][1] >= first else (h, skip)

    def follow(n: Tensor, keys: Tensor, values: Tensor, _: dict) -> tuple[Tensor, Tensor, Tensor]:
        return (n, keys, values) if n.shape[0] == rows else (n, grow(keys), grow(values))

    return call.handed_to(
        executor,
        x=x[:rows],
        timesteps=call.timesteps[:1],  # one serves any number of rows: its embedding is broadcast
        context=call.context[:rows],
        y=None if call.y is None else call.y[:rows],
        control=None,
        options={**options, "patches": {"output_block_patch": [part], "attn2_patch": [follow]}},
    )


def parting_block(options: dict[str, Any], placed: Sequence[PlacedEdit]) -> int | None:
    """Index of the first edited decoder block; None unless self-attention edits there are all that is in this call.

    :param options: as the call came, without the edits.
    """
    wrappers = options.get("wrappers", {}).get(_WRAPPER, {})
    foreign = (
        any(options.get("patches", {}).values())
        or any(options.get("patches_replace", {}).values())
        or any(group for key, group in wrappers.items() if key != KEY)
        or "optimized_attention_override" in options
    )
    layers = [layer for one in placed for layer in one.layers]
    ours = all(tuple(one.kinds) == (SELF,) for one in placed) and all(layer.block == "output" for layer in layers)
    return min((layer.index for layer in layers), default=None) if ours and not foreign else None


def _is_stock(unet: Any) -> bool:
    """Whether a UNet is made of the core's modules as they are.

    One that another pack put there (motion modules, a layer of its own) may count rows.
    """
    layers = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.GroupNorm, torch.nn.LayerNorm)  # quantized ones are of these
    return unet is not None and all(
        (type(one).__module__.startswith(("comfy.", "torch.")) or isinstance(one, layers))
        and "forward" not in vars(one)
        for one in unet.modules()
    )
