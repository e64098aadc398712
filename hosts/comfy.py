"""The ComfyUI host: a MODEL as a denoiser that attention edits can be put into.

Only documented ModelPatcher setters are used, always on a clone; what other packs installed on a layer stays in the
chain. Rows of a batch are told apart by ``cond_or_uncond``, never by position.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.samplers
import torch
from comfy.ldm.modules.attention import attention_pytorch, optimized_attention
from torch import Tensor

from ..attention.call import CONDITIONAL, SELF, AttentionCall, Edit, batch_layout
from ..attention.layers import Layer, LayerInfo
from .comfy_sharing import OURS, share_branches
from .weight_files import digest

log = logging.getLogger(__name__)

#: Key under which the pack's wrappers and options stand in a MODEL.
KEY = "exemplar"

#: Prediction types that share the noise schedule this pack works on.
_SUPPORTED_SAMPLING = ("EPS", "V_PREDICTION")


def require_unet(model: Any, node: str) -> Any:
    """The UNet of a Stable Diffusion 1.x, 2.x or SDXL MODEL.

    :param node: display name of the asking node, for the message.
    :raises ValueError: any other family, named.
    """
    unet = model.get_model_object("diffusion_model")
    sampling = model.get_model_object("model_sampling")
    parents = {base.__name__ for base in type(sampling).__mro__}
    is_unet = all(hasattr(unet, part) for part in ("input_blocks", "middle_block", "output_blocks"))
    if not is_unet or not parents & set(_SUPPORTED_SAMPLING) or "EDM" in parents or not attention_layers(model):
        raise ValueError(
            f"{node} needs a Stable Diffusion 1.x, 2.x or SDXL UNet; this MODEL is {type(model.model).__name__} "
            f"({type(unet).__name__}). Load one of those checkpoints."
        )
    return unet


def attention_layers(model: Any) -> tuple[LayerInfo, ...]:
    """Self-attention layers of a MODEL in network order: found by what the modules are, not by a table."""
    unet = model.get_model_object("diffusion_model")
    found: list[LayerInfo] = []
    downscale = 1

    def visit(block: str, index: int, modules: Iterable[Any]) -> None:
        nonlocal downscale
        for module in modules:
            kind = type(module).__name__
            if kind == "SpatialTransformer":
                for depth, inner in enumerate(module.transformer_blocks):
                    attn = inner.attn1
                    found.append(
                        LayerInfo(Layer(block, index, depth), attn.to_q.in_features, attn.heads, downscale)
                    )
            elif kind == "Downsample":
                downscale *= 2
            elif kind == "Upsample":
                downscale //= 2

    for index, modules in enumerate(getattr(unet, "input_blocks", ())):
        visit("input", index, modules)
    visit("middle", 0, getattr(unet, "middle_block", ()))
    for index, modules in enumerate(getattr(unet, "output_blocks", ())):
        visit("output", index, modules)
    return tuple(found)


def sigma_table(model: Any) -> Tensor:
    """(train timesteps,) ascending training sigmas of a MODEL."""
    return model.get_model_object("model_sampling").sigmas.float().cpu()


def fingerprint(model: Any) -> str:
    """Identifies a MODEL's weights: its class and a digest of the first convolution.

    LoRAs hardly ever touch that layer, so a MODEL with a LoRA counts as the same one: inverting without it is a choice,
    not a mistake.
    """
    weight = next(model.get_model_object("diffusion_model").input_blocks[0].parameters())
    return f"{type(model.model).__name__}-{digest(weight)}"


def fused_attention(options: dict[str, Any]) -> Callable[[Tensor, Tensor, Tensor, int], Tensor]:
    """ComfyUI's attention for the running call (with whatever override other packs set)."""

    def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        # On a CPU ComfyUI's choice builds attention maps in slices; torch's fused kernel is exact there and faster.
        function = attention_pytorch if q.device.type == "cpu" else optimized_attention
        return function(q, k, v, heads, attn_precision=options.get("attn_precision"), transformer_options=options)

    return attend


def install_edit(model: Any, edit: Edit, layers: Iterable[Layer], kinds: Sequence[str] = (SELF,)) -> Any:
    """A clone of the MODEL whose self-attention layers (or those of the given kinds) ask ``edit``.

    A replacement that is already there becomes the edit's ``earlier``. It is called with the host's own, whole batch,
    so that it never sees rows that it did not expect.
    """
    patched = model.clone()
    wanted = frozenset(layers)
    options = patched.model_options.get("transformer_options", {})
    blocks = sorted({(layer.block, layer.index) for layer in wanted})
    for kind in kinds:
        present = dict(options.get("patches_replace", {}).get(kind, {}))
        install = patched.set_model_attn1_replace if kind == SELF else patched.set_model_attn2_replace
        for block, index in blocks:
            install(replacement(edit, wanted, kind, present.get((block, index))), block, index)
        for key in present:
            # ComfyUI prefers a replacement for one transformer of a stack over the one for the whole block
            if len(key) == 3 and Layer(*key) in wanted:
                install(replacement(edit, wanted, kind, present[key]), *key)
    return share_branches(patched, KEY)


def with_edit(
    model_options: dict[str, Any], edit: Edit, layers: Iterable[Layer], kinds: Sequence[str] = (SELF,)
) -> dict[str, Any]:
    """Model options of one model call under an edit: for guiders, whose edits change from call to call.

    :returns: a copy; the edit stands on top of whatever was on its layers.
    """
    changed = {**model_options, "transformer_options": {**model_options.get("transformer_options", {})}}
    wanted = frozenset(layers)
    blocks = {(layer.block, layer.index) for layer in wanted}
    for kind in kinds:
        present = dict(changed["transformer_options"].get("patches_replace", {}).get(kind, {}))
        for key in (*sorted(blocks), *(key for key in present if len(key) == 3 and Layer(*key) in wanted)):
            patch = replacement(edit, wanted, kind, present.get(key))
            comfy.model_patcher.set_model_options_patch_replace(changed, patch, kind, *key)
    return changed


def replacement(edit: Edit, wanted: frozenset[Layer], kind: str, before: Callable | None) -> Callable:
    """A closure, not an object: some ComfyUI versions copy callable objects whenever a MODEL is cloned."""

    def replace(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
        block, index = options["block"][:2]
        layer = Layer(block, index, options.get("block_index", 0))

        whole: Tensor | None = None

        def earlier(call: AttentionCall) -> Tensor:
            nonlocal whole
            if before is None:
                return _plain(call.q, call.k, call.v, options)
            if call.rows == everything and (call.q is not q or call.k is not k or call.v is not v):
                return before(call.q, call.k, call.v, options)  # the edit changes what goes in, not what comes out
            if whole is None:  # an edit may ask for some rows now and for others later
                whole = before(q, k, v, options)
            return whole.index_select(0, torch.tensor(call.rows, device=whole.device))

        call = dataclasses.replace(attention_call(layer, q, k, v, options, kind), alone=before is None)
        everything = call.rows
        return edit(call, earlier) if layer in wanted else earlier(call)

    # a layer that others replaced first is not ours alone
    setattr(replace, OURS, before is None or getattr(before, OURS, False))
    return replace


def _plain(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
    """What ComfyUI does on a layer that nobody replaced."""
    return optimized_attention(
        q, k, v, options["n_heads"], attn_precision=options.get("attn_precision"), transformer_options=options
    )


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


def on_sampling(model: Any, check: Callable[[tuple[int, ...], Tensor], None]) -> Any:
    """A clone of the MODEL that calls ``check(latent shape, sigmas)`` before any sampling with it starts."""
    patched = model.clone()

    def wrapper(executor: Any, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, *args: Any, **kw: Any):
        check(tuple(noise.shape), sigmas)
        return executor(noise, latent, sampler, sigmas, *args, **kw)

    patched.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, KEY, wrapper)
    return patched


def color_guider(model: Any, conditioning: list, weight: float) -> Any:
    """Colourisation guidance as a stock CFG guider: the same prompt on both sides, the edit on the positive one only."""
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(conditioning, conditioning)
    guider.set_cfg(weight)
    return guider


def run_sampler(
    guider: Any,
    latent: Tensor,
    function: Callable[..., Tensor],
    sigmas: Tensor,
    on_step: Callable[[Tensor], None] | None,
) -> Tensor:
    """Run a k-diffusion style sampler function through ComfyUI's own sampling.

    :param latent: (B, C, h, w) start, in the model's latent scale.
    :param on_step: called with the clean estimate after each step.
    :returns: (B, C, h, w) in the model's latent scale, on the CPU or wherever ComfyUI keeps intermediates.
    """
    base = guider.model_patcher.model

    def callback(_step: int, denoised: Tensor, _x: Tensor, _total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        if on_step is not None:
            on_step(denoised)

    start = base.process_latent_out(latent.to(comfy.model_management.intermediate_device()))
    samples = guider.sample(
        torch.zeros_like(start), start, comfy.samplers.KSAMPLER(function), sigmas, callback=callback,
        disable_pbar=True, seed=0,
    )  # fmt: skip
    return base.process_latent_in(samples.to(comfy.model_management.intermediate_device()))
