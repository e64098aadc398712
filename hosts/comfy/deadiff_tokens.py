"""Image tokens in a MODEL: extra keys and values in its text cross-attentions.

Nothing is put into the MODEL's table of replacements when the node runs. The edit is laid over what stands there when
the UNet is called, by a wrapper around the call. So it composes with other packs' replacements of the same layers
(IPAdapter's are such) in any order: whichever stands there is handed the longer keys and values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.patcher_extension
from torch import Tensor

from ...attention.call import CROSS, AttentionCall
from ...attention.image_tokens import ImageTokens
from ...attention.layers import Layer
from ...diffusion.schedule import fractional_timestep
from .attention import fused_attention, plain_attention
from .edits import attention_call
from .model import KEY, attention_layers, require_unet


def check_model(model: Any, widths: dict[Layer, int], token_width: int, node: str) -> None:
    """Whether a MODEL is one that these projections belong to.

    :param widths: layer -> channels of its projections.
    :param token_width: of the tokens, which is that of prompts.
    :raises ValueError: another family.
    """
    unet = require_unet(model, node)
    found = {info.layer: info.channels for info in attention_layers(model)}
    prompts = {
        module.attn2.to_k.in_features
        for module in unet.modules()
        if type(module).__name__ == "BasicTransformerBlock" and getattr(module, "attn2", None) is not None
    }
    if found != widths or prompts != {token_width}:
        wide = ", ".join(map(str, sorted(prompts)))
        raise ValueError(
            f"{node}: these tokens are for a model with {_described(widths)} and prompts {token_width} wide; this "
            f"MODEL ({type(model.model).__name__}) has {_described(found)} and prompts {wide} wide. DEADiff's own "
            "belong to Stable Diffusion 1.x, the embedded ones to the embedded model: use such a MODEL, or load the "
            "other file."
        )


def _described(widths: dict[Layer, int]) -> str:
    channels = sorted(set(widths.values()))
    return f"{len(widths)} cross-attention layers of {', '.join(map(str, channels))} channels"


def install_tokens(model: Any, edit: ImageTokens, start_percent: float, end_percent: float) -> Any:
    """A clone of the MODEL whose cross-attentions see image tokens between two shares of the sampling.

    What the edit keeps of a run is let go when the run ends, however it ends.
    """
    patched = model.clone()
    sampling = model.get_model_object("model_sampling")
    first, last = (float(sampling.percent_to_sigma(share)) for share in (start_percent, end_percent))

    def wrapper(executor: Any, x: Tensor, t: Tensor, *args: Any, **kw: Any) -> Tensor:
        # c_concat, c_crossattn, control, transformer_options
        place = 3
        options = args[place] if len(args) > place else kw.get("transformer_options", {})
        if not last <= float(t.reshape(-1)[0]) <= first:
            return executor(x, t, *args, **kw)
        options = _laid_over(options, edit)
        if len(args) > place:
            return executor(x, t, *args[:place], options, *args[place + 1 :], **kw)
        return executor(x, t, *args, **{**kw, "transformer_options": options})

    def run(executor: Any, *args: Any, **kw: Any) -> Tensor:
        try:
            return executor(*args, **kw)
        finally:
            edit.forget()

    patched.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.APPLY_MODEL, KEY, wrapper)
    patched.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, KEY, run)
    return patched


def _laid_over(options: dict[str, Any], edit: ImageTokens) -> dict[str, Any]:
    """The options of one call with the edit on top of what is there; they are copied as deep as they are changed."""
    replaced = dict(options.get("patches_replace", {}))
    present = replaced.get(CROSS, {})
    replaced[CROSS] = dict(present)
    for layer in edit.layers:
        at = (layer.block, layer.index, layer.depth)
        replaced[CROSS][at] = _replacement(edit, layer, present.get(at, present.get(at[:2])))
    return {**options, "patches_replace": replaced}


def _replacement(edit: ImageTokens, layer: Layer, before: Callable | None) -> Callable:
    def replace(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
        def earlier(call: AttentionCall) -> Tensor:
            if before is not None:
                return before(call.q, call.k, call.v, options)
            if call.k is k:  # nothing was added: just what ComfyUI does
                return plain_attention(q, k, v, options)
            return fused_attention(options)(call.q, call.k, call.v, call.heads)

        return edit(attention_call(layer, q, k, v, options, CROSS), earlier)

    return replace


def fractional_timesteps(model: Any) -> Any:
    """A clone of the MODEL that reads its UNet at exact timesteps where ComfyUI takes the nearest whole one.

    k-diffusion's way, which DEADiff's Euler sampler goes: a sigma between two training sigmas has a timestep between
    theirs, linear in log sigma.
    """
    patched = model.clone()
    given = model.get_model_object("model_sampling")

    class FractionalTimesteps(type(given)):
        def timestep(self, sigma: Tensor) -> Tensor:
            return fractional_timestep(self.sigmas, sigma)

    made = FractionalTimesteps(model.model.model_config)
    made.set_sigmas(given.sigmas)
    made.sigma_data = given.sigma_data
    patched.add_object_patch("model_sampling", made)
    return patched
