"""The ComfyUI host: a MODEL as a denoiser, what it is made of, and how it is told from others."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

from torch import Tensor

from ...attention.layers import Layer, LayerInfo
from ...files.tensors import digest

log = logging.getLogger(__name__)

#: Key under which the pack's wrappers and options stand in a MODEL.
KEY = "exemplar"

#: What stands under that key of the transformer options: the list of edits, what a run and a prediction say, and which
#: pictures are worked on where they are not all.
EDITS, RUN, PREDICTION, PART = "edits", "run", "prediction", "part"

#: Prediction types that share the noise schedule this pack works on.
_SUPPORTED_SAMPLING = ("EPS", "V_PREDICTION")


def require_unet(model: Any, node: str) -> Any:
    """The UNet of a Stable Diffusion 1.x, 2.x or SDXL MODEL.

    :param node: display name of the asking node, for the message.
    :raises ValueError: any other family, named; or no MODEL.
    """
    if not hasattr(model, "get_model_object"):
        raise ValueError(
            f"{node}: model: found {type(model).__name__}, expected a MODEL; look at the node that made it."
        )
    unet = model.get_model_object("diffusion_model")
    sampling = model.get_model_object("model_sampling")
    parents = {base.__name__ for base in type(sampling).__mro__}
    is_unet = all(hasattr(unet, part) for part in ("input_blocks", "middle_block", "output_blocks"))
    if not is_unet or not parents & set(_SUPPORTED_SAMPLING) or "EDM" in parents or not attention_layers(model):
        raise ValueError(
            f"{node}: model: found {type(model.model).__name__} ({type(unet).__name__}), expected a Stable Diffusion "
            "1.x, 2.x or SDXL UNet; load one of those checkpoints."
        )
    return unet


def attention_layers(model: Any) -> tuple[LayerInfo, ...]:
    """Self-attention layers of a MODEL in network order: told by what the modules are, not by a table."""
    unet = model.get_model_object("diffusion_model")
    layers: list[LayerInfo] = []
    downscale = 1

    def visit(block: str, index: int, modules: Iterable[Any]) -> None:
        nonlocal downscale
        for module in modules:
            kind = type(module).__name__
            if kind == "SpatialTransformer":
                for depth, inner in enumerate(module.transformer_blocks):
                    attn = inner.attn1
                    layers.append(LayerInfo(Layer(block, index, depth), attn.to_q.in_features, attn.heads, downscale))
            elif kind == "Downsample":
                downscale *= 2
            elif kind == "Upsample":
                downscale //= 2

    for index, modules in enumerate(getattr(unet, "input_blocks", ())):
        visit("input", index, modules)
    visit("middle", 0, getattr(unet, "middle_block", ()))
    for index, modules in enumerate(getattr(unet, "output_blocks", ())):
        visit("output", index, modules)
    return tuple(layers)


def sigma_table(model: Any) -> Tensor:
    """(train timesteps,) ascending training sigmas of a MODEL."""
    return model.get_model_object("model_sampling").sigmas.float().cpu()


def context_width(model: Any) -> int | None:
    """Width of the prompts that a MODEL's UNet listens to; None where it has no cross-attention."""
    for module in model.get_model_object("diffusion_model").modules():
        if type(module).__name__ == "SpatialTransformer":
            attention = getattr(module.transformer_blocks[0], "attn2", None)
            return getattr(getattr(attention, "to_k", None), "in_features", None)
    return None


def file_name(model: Any) -> str:
    """The name of the file that a MODEL was loaded from, for messages; "" where its loader did not write it down."""
    _, arguments, *_ = getattr(model, "cached_patcher_init", None) or (None, ())
    path = arguments[0] if arguments else ""
    return PurePath(path).stem if isinstance(path, (str, PurePath)) else ""


def fingerprint(model: Any) -> str:
    """Identifies a MODEL's weights: its class and a digest of the first convolution as its file has it.

    A MODEL with a LoRA, or merged by a node, counts as the one that they were put on: inverting without them is a
    choice, not a mistake. ComfyUI patches weights in place while a MODEL is loaded and keeps the file's aside; which of
    them stand there just now must not decide.
    """
    name, weight = next(model.get_model_object("diffusion_model").input_blocks[0].named_parameters())
    key = f"diffusion_model.input_blocks.0.{name}"
    if key in getattr(model, "hook_backup", {}):
        weight = model.hook_backup[key][0]
    if key in getattr(model, "backup", {}):
        weight = model.backup[key].weight
    return f"{type(model.model).__name__}-{digest(weight)}"
