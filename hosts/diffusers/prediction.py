"""What a checkpoint's UNet predicts: the noise, or the velocity between noise and picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from ...files import ldm

#: How it is asked for; "auto" is what the file tells.
Prediction = Literal["auto", "epsilon", "v"]

#: diffusers' words for it.
PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction"}

#: Where the headers of single files say it.
_MODELSPEC = "modelspec.prediction_type"


def guess_prediction(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """What the UNet of a single file predicts, in diffusers' words.

    Newer v models say so with a ``v_pred`` tensor, some files in their header; for SD 2.x ComfyUI's rule is used: the
    last self-attention's norm has biases that spread over more than 0.09 in the 768-v models. SD 1.x files that say
    nothing count as epsilon.

    :param tensors: LDM names.
    :param metadata: of the file's header.
    """
    unet = ldm.part(tensors, ldm.UNET)
    if "v_pred" in tensors:
        return "v_prediction"
    if metadata.get(_MODELSPEC) in PREDICTIONS:
        return PREDICTIONS[metadata[_MODELSPEC]]
    linear = unet["middle_block.1.proj_in.weight"].ndim == 2
    if linear and unet["input_blocks.0.0.weight"].shape[1] == 4 and "label_emb.0.0.weight" not in unet:
        last = max(int(name.split(".")[1]) for name in unet if name.startswith("output_blocks."))
        bias = unet.get(f"output_blocks.{last}.1.transformer_blocks.0.norm1.bias")
        if bias is not None and bias.float().std(unbiased=False) > 0.09:
            return "v_prediction"
    return "epsilon"
