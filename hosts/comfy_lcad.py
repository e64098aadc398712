"""L-CAD as ComfyUI's MODEL and CLIP and as an LCAD_VAE under its model manager, and where its files are."""

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

from .comfy_unet import unet_options
from .ldm_config import check_fit, unet_config

#: Under which key a condition carries the gray features, (B or 1, G, h, w).
GRAY_KEY = "exemplar_gray_features"


class LCADModel(comfy.model_base.BaseModel):
    """ComfyUI's own diffusion model, whose first convolution reads gray features beside the latent.

    The features travel with the conditions, so that every sampler, LoRA and guider works as with any other model.
    """

    def concat_cond(self, **kwargs: Any) -> Tensor:
        """(B or 1, G, h, w) from the condition, which ComfyUI puts behind the latent's channels.

        :raises ValueError: a condition without gray features, or with those of another model or another size.
        """
        noise, gray = kwargs["noise"], kwargs.get(GRAY_KEY)
        if gray is None:
            raise ValueError(
                "This L-CAD model needs the gray picture with its prompts: put L-CAD Condition between the prompts and the "
                "sampler, for positive and negative alike."
            )
        first = self.diffusion_model.input_blocks[0][0].weight.shape[1]
        if gray.shape[1] + noise.shape[1] != first:
            raise ValueError(
                f"The gray features have {gray.shape[1]} channels, this model needs {first - noise.shape[1]}: connect the "
                "lcad_vae of the same Load L-CAD to L-CAD Condition."
            )
        if gray.shape[-2:] != noise.shape[-2:]:
            raise ValueError(
                f"The gray features are {gray.shape[-1]} x {gray.shape[-2]}, the latent is {noise.shape[-1]} x "
                f"{noise.shape[-2]}: connect the latent of L-CAD Condition to the sampler."
            )
        return gray.to(kwargs["device"])


def build_model(weights: Mapping[str, Tensor], config: Any) -> Any:
    """A MODEL from a UNet's tensors in LDM names.

    :param config: ComfyUI's model configuration, see :func:`model_config`.
    :raises ValueError: tensors that are missing, unexpected or of another shape, named.
    """
    mm = comfy.model_management
    device, offload = mm.get_torch_device(), mm.unet_offload_device()
    parameters = sum(tensor.numel() for tensor in weights.values())
    dtype = mm.unet_dtype(model_params=parameters, supported_dtypes=[torch.float16, torch.bfloat16, torch.float32])
    config.set_inference_dtype(dtype, mm.unet_manual_cast(dtype, device))
    model = config.get_model({}, "", device=offload)
    check_fit(model.diffusion_model, weights, "L-CAD's UNet")
    model.diffusion_model.load_state_dict(dict(weights), strict=True)
    model.eval().requires_grad_(False)
    return patcher_class()(model, load_device=device, offload_device=offload)


def model_config(
    options: Mapping[str, Any],
    latent_format: type[comfy.latent_formats.LatentFormat] = comfy.latent_formats.SD15,
    schedule: Mapping[str, Any] | None = None,
    prediction: comfy.model_base.ModelType = comfy.model_base.ModelType.EPS,
) -> Any:
    """ComfyUI's configuration of an :class:`LCADModel`.

    :param options: of ComfyUI's UNet, see ``comfy_unet.unet_options``.
    :param schedule: ComfyUI's sampling settings; default: Stable Diffusion's.
    """

    class Config(comfy.supported_models_base.BASE):
        unet_config: dict[str, Any] = {}
        unet_extra_config: dict[str, Any] = {}
        sampling_settings = dict(schedule or {})

        def get_model(self, state_dict: dict[str, Tensor], prefix: str = "", device: Any = None) -> LCADModel:
            return LCADModel(self, model_type=prediction, device=device)

    Config.latent_format = latent_format
    return Config(dict(options))


def load_unet(weights: Mapping[str, Tensor], heads: int | None = None) -> Any:
    """A published UNet as a MODEL; sizes come from the tensors.

    :param weights: LDM names without prefix.
    :param heads: of every attention layer; default: Stable Diffusion 1.x's 8.
    :raises ValueError: not such a UNet, or incomplete.
    """
    return build_model(weights, model_config(unet_options(unet_config(weights, heads=heads))))


def with_gray(conditioning: list, gray: Tensor) -> list:
    """A copy of a CONDITIONING whose entries all carry gray features."""
    return [[text, {**extra, GRAY_KEY: gray}] for text, extra in conditioning]


def patcher_class() -> type:
    return getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
