"""The ComfyUI host: a MODEL as a denoiser, what it is made of, and how it is told from others."""

from __future__ import annotations

import logging
from pathlib import PurePath
from typing import Any

from torch import Tensor

from ...attention.layers import LayerInfo
from ...files.tensors import digest
from .families.found import network_of
from .families.unet import unet_context, unet_layers

log = logging.getLogger(__name__)

#: Key under which the pack's wrappers and options stand in a MODEL.
KEY = "exemplar"

#: What stands under that key of the transformer options: the list of edits, what a run and a prediction say, and which
#: pictures are worked on where they are not all.
EDITS, RUN, PREDICTION, PART = "edits", "run", "prediction", "part"


def attention_layers(model: Any) -> tuple[LayerInfo, ...]:
    """Layers of a MODEL where a picture attends to itself, in network order."""
    network = model.get_model_object("diffusion_model")
    if hasattr(network, "input_blocks"):  # also where its noise is none of the family's
        return unet_layers(network)
    known = network_of(model)
    return () if known is None else known.layers


def sigma_table(model: Any) -> Tensor:
    """(train timesteps,) ascending training sigmas of a MODEL."""
    return model.get_model_object("model_sampling").sigmas.float().cpu()


def context_width(model: Any) -> int | None:
    """Width of the prompts that a MODEL reads; None where it reads none, or does not say."""
    network = model.get_model_object("diffusion_model")
    if hasattr(network, "input_blocks"):
        return unet_context(network)
    known = network_of(model)
    return None if known is None else known.context


def file_name(model: Any) -> str:
    """The name of the file that a MODEL was loaded from, for messages; "" where its loader did not write it down."""
    _, arguments, *_ = getattr(model, "cached_patcher_init", None) or (None, ())
    path = arguments[0] if arguments else ""
    return PurePath(path).stem if isinstance(path, (str, PurePath)) else ""


def fingerprint(model: Any) -> str:
    """Identifies a MODEL's weights: its class and a digest of its first layer as its file has it.

    A MODEL with a LoRA, or merged by a node, counts as the one that they were put on: inverting without them is a
    choice, not a mistake. ComfyUI patches weights in place while a MODEL is loaded and keeps the file's aside; which of
    them stand there just now must not decide.
    """
    known = network_of(model)
    stem = "input_blocks.0" if known is None else known.stem
    name, weight = next(model.get_model_object("diffusion_model").get_submodule(stem).named_parameters())
    key = f"diffusion_model.{stem}.{name}"
    if key in getattr(model, "hook_backup", {}):
        weight = model.hook_backup[key][0]
    if key in getattr(model, "backup", {}):
        weight = model.backup[key].weight
    return f"{type(model.model).__name__}-{digest(weight)}"
