"""UNets that ComfyUI's own detection does not know: their layout in ComfyUI's words, and the MODEL around them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models_base
import torch
from torch import Tensor

from ...files.ldm import check_fit
from .managed import managed


def unet_options(unet: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of diffusers' UNet2DConditionModel -> those of ComfyUI's UNetModel.

    :param unet: an SD 1.x-like layout: one transformer depth a level, convolutions as projections or not.
    :raises ValueError: heads or normalization groups that ComfyUI's class can't have.
    """
    widths = unet["block_out_channels"]
    blocks = unet["layers_per_block"]
    down = ["CrossAttn" in kind for kind in unet["down_block_types"]]
    up = ["CrossAttn" in kind for kind in reversed(unet["up_block_types"])]
    if unet["norm_num_groups"] != 32:
        found = unet["norm_num_groups"]
        raise ValueError(f"The UNet has {found} normalization groups; ComfyUI's needs 32: get the file again.")
    return {
        "image_size": unet["sample_size"],
        "in_channels": unet["in_channels"],
        "out_channels": unet["out_channels"],
        "model_channels": widths[0],
        "channel_mult": [width // widths[0] for width in widths],
        "num_res_blocks": [blocks] * len(widths),
        "transformer_depth": [int(attention) for attention in down for _ in range(blocks)],
        "transformer_depth_output": [int(attention) for attention in up for _ in range(blocks + 1)],
        "transformer_depth_middle": 1,
        "context_dim": unet["cross_attention_dim"],
        "use_spatial_transformer": True,
        "use_linear_in_transformer": bool(unet.get("use_linear_projection")),
        "adm_in_channels": None,
        "legacy": False,
        **_heads(unet),
    }


def _heads(unet: Mapping[str, Any]) -> dict[str, int]:
    """Either one number of heads or one width of a head. diffusers' "attention_head_dim" is the NUMBER of heads."""
    heads, widths = unet["attention_head_dim"], unet["block_out_channels"]
    if isinstance(heads, int):
        heads = [heads] * len(widths)
    if len(set(heads)) == 1:
        return {"num_heads": heads[0], "num_head_channels": -1}
    found = {width // count for width, count in zip(widths, heads, strict=True)}
    if len(found) != 1:
        raise ValueError(
            f"The UNet has {list(heads)} heads, {sorted(found)} channels wide; ComfyUI's needs one number or one "
            "width: get the file again."
        )
    return {"num_heads": -1, "num_head_channels": found.pop()}


def model_config(
    options: Mapping[str, Any],
    *,
    latent_format: type[comfy.latent_formats.LatentFormat] = comfy.latent_formats.SD15,
    schedule: Mapping[str, Any] | None = None,
    prediction: comfy.model_base.ModelType = comfy.model_base.ModelType.EPS,
    model_class: type[comfy.model_base.BaseModel] = comfy.model_base.BaseModel,
) -> Any:
    """ComfyUI's configuration of a model.

    :param options: of its UNet, see :func:`unet_options`.
    :param schedule: ComfyUI's sampling settings; default: Stable Diffusion's.
    :param model_class: what ``get_model`` makes.
    """

    class Config(comfy.supported_models_base.BASE):
        unet_config: dict[str, Any] = {}
        unet_extra_config: dict[str, Any] = {}
        sampling_settings = dict(schedule or {})

        def model_type(self, state_dict: dict[str, Tensor], prefix: str = "") -> comfy.model_base.ModelType:
            return prediction

        def get_model(self, state_dict: dict[str, Tensor], prefix: str = "", device: Any = None) -> Any:
            return model_class(self, model_type=prediction, device=device)

    Config.latent_format = latent_format
    return Config(dict(options))


def build_model(weights: Mapping[str, Tensor], config: Any, what: str, *, paged: bool = True) -> Any:
    """A MODEL from a UNet's tensors, in the precision that ComfyUI chooses for them.

    :param weights: ComfyUI's (LDM) names without prefix.
    :param config: see :func:`model_config`.
    :param what: what it is called in messages.
    :param paged: see :func:`.managed.managed`.
    :raises ValueError: tensors that are missing, unexpected or of another shape, named.
    """
    mm = comfy.model_management
    device, offload = mm.get_torch_device(), mm.unet_offload_device()
    parameters = sum(tensor.numel() for tensor in weights.values())
    dtype = mm.unet_dtype(model_params=parameters, supported_dtypes=[torch.float16, torch.bfloat16, torch.float32])
    config.set_inference_dtype(dtype, mm.unet_manual_cast(dtype, device))
    # without memory first: a file may say sizes that its tensors do not have
    check_fit(config.get_model({}, "", device="meta").diffusion_model, weights, what)
    model = config.get_model({}, "", device=offload)
    model.diffusion_model.load_state_dict(dict(weights), strict=True)
    model.eval().requires_grad_(False)
    return managed(model, device, offload, paged=paged)
