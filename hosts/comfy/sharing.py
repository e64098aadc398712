"""Guidance without doing half of the work twice.

Colorization guidance runs one latent under one prompt in two branches that differ in edited decoder layers only. Until
the first of these, both rows of the batch hold the same numbers. This wrapper runs that part once and lets the batch
grow to its full size where the branches part: on SD 1.x that saves about half of the second row.

It steps aside whenever it cannot be sure: another pack's patch, a ControlNet, different prompts, an edited encoder
layer. Then everything runs as ComfyUI planned it.
"""

from __future__ import annotations

from typing import Any

import comfy.patcher_extension
import torch
from torch import Tensor

#: Attribute of this pack's replacements, and option of a call that already is the shared one.
OURS = "exemplar_edit"
SHARED = "exemplar_shared"

_WRAPPER = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL


def share_branches(model: Any, key: str) -> Any:
    """Add the wrapper to a MODEL (in place: the caller's own clone). Adding it twice does no harm."""
    model.add_wrapper_with_key(_WRAPPER, key, _run)
    return model


def _run(executor: Any, x: Tensor, timesteps: Tensor, context: Any, y: Any, control: Any, options: dict, **kw: Any):
    copies = len(options.get("cond_or_uncond", ()))
    first = None if options.get(SHARED) else parting_block(options)
    if first is None or copies < 2 or control is not None or kw or not _alike(copies, x, timesteps, context, y):
        return executor(x, timesteps, context, y, control, options, **kw)
    rows = x.shape[0] // copies

    def grow(t: Tensor) -> Tensor:
        return t.repeat(copies, *[1] * (t.ndim - 1)) if t.shape[0] == rows else t

    def part(h: Tensor, skip: Tensor, at: dict) -> tuple[Tensor, Tensor]:
        return (grow(h), grow(skip)) if at["block"][1] >= first else (h, skip)

    def follow(n: Tensor, keys: Tensor, values: Tensor, _: dict) -> tuple[Tensor, Tensor, Tensor]:
        return (n, keys, values) if n.shape[0] == rows else (n, grow(keys), grow(values))

    shared = {**options, SHARED: True, "patches": {"output_block_patch": [part], "attn2_patch": [follow]}}
    # one timestep serves any number of rows: its embedding is broadcast
    labels = None if y is None else y[:rows]
    return executor(x[:rows], timesteps[:1], context[:rows], labels, None, shared)


def parting_block(options: dict[str, Any]) -> int | None:
    """Index of the first edited decoder block; None unless our edits are all that was patched into this call."""
    replaced = options.get("patches_replace", {})
    ours = replaced.get("attn1", {})
    foreign = (
        any(options.get("patches", {}).values())
        or any(patches for name, patches in replaced.items() if name != "attn1")
        or any(not getattr(patch, OURS, False) for patch in ours.values())
        or any(wrapper is not _run for wrapper in comfy.patcher_extension.get_all_wrappers(_WRAPPER, options))
        or "optimized_attention_override" in options
    )
    if foreign or not ours or any(at[0] != "output" for at in ours):
        return None
    return min(at[1] for at in ours)


def _alike(copies: int, x: Tensor, timesteps: Tensor, context: Any, y: Any) -> bool:
    """Whether all branches have the same numbers as input."""
    if not isinstance(context, Tensor) or x.shape[0] % copies or context.shape[0] != x.shape[0]:
        return False
    if y is not None and x.shape[0] != copies:
        return False  # SDXL's labels come a row a picture and cannot be broadcast
    if not bool((timesteps == timesteps[0]).all()):
        return False
    inputs = [t for t in (x, context, y) if t is not None]
    return all(torch.equal(chunk, t.chunk(copies)[0]) for t in inputs for chunk in t.chunk(copies)[1:])
