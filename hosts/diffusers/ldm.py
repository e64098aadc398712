"""Stable Diffusion checkpoints in LDM naming as diffusers modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...files.ldm import (
    GROUPS,
    UNET,
    VAE,
    check_source,
    count,
    describe,
    listed,
    load_strictly,
    part,
    place,
    size,
    unet_config,
)


def _check_converted(source: Mapping[str, Tensor], converted: Mapping[str, Tensor], what: str) -> None:
    """Whether a converter kept everything: it keeps tensors or views of them, so what it dropped is missing memory.

    :raises ValueError: something was dropped, named.
    """
    kept = {tensor.data_ptr() for tensor in converted.values()}
    lost = [name for name, tensor in source.items() if tensor.data_ptr() not in kept]
    if lost:
        raise ValueError(
            f"{what}: unexpected keys {listed(lost)}, expected those of SD 1.x, 2.x or SDXL: this is an extended or "
            "different model; use the plain checkpoint."
        )


def unet_from_ldm(
    state_dict: Mapping[str, Tensor],
    *,
    heads: int | None = None,
    head_dim: int | None = None,
    dtype: torch.dtype | None = torch.float32,
) -> Any:
    """A UNet in LDM naming -> diffusers' UNet2DConditionModel: eval mode, no gradients, on the tensors' device.

    :param state_dict: a whole checkpoint or its UNet alone, with or without the prefix ``model.diffusion_model.``;
        other parts are not looked at. Tensors that need no cast are taken over, not copied.
    :param heads: number of attention heads on every level; ``head_dim``: their width. No shape tells either, so by
        default 8 heads where ``proj_in`` is a convolution (SD 1.x), else heads 64 wide (SD 2.x, SDXL).
    :param dtype: of the result; None keeps the stored one.
    :raises ValueError: keys are missing or unexpected, or it is no SD-like UNet; the message says what it is.
    """
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    weights = part(state_dict, UNET)
    if not weights and "input_blocks.0.0.weight" in state_dict:
        weights = dict(state_dict)
    if not weights:
        raise ValueError(
            f"no tensor is named `{UNET}*`; {describe(state_dict)} was found: use an SD 1.x, 2.x or SDXL checkpoint."
        )
    config = unet_config(weights, heads=heads, head_dim=head_dim)
    check_source(weights, UNET)
    converted = convert_ldm_unet_checkpoint({UNET + name: tensor for name, tensor in weights.items()}, config)
    _check_converted(weights, converted, "UNet")
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    unet = load_strictly(unet, converted, "UNet")
    return unet if dtype is None else place(unet, dtype=dtype)


def vae_from_ldm(state_dict: Mapping[str, Tensor], scaling_factor: float) -> Any:
    """``first_stage_model.*`` of a checkpoint -> diffusers' AutoencoderKL (float32), sizes from the shapes.

    :param scaling_factor: no shape tells it: 0.18215 for SD 1.x and 2.x, 0.13025 for SDXL.
    :raises ValueError: there is no complete VAE, or keys are unexpected.
    """
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    # Some VAE trainings leave their discriminator and averages in the file.
    weights = {n: tensor for n, tensor in part(state_dict, VAE).items() if not n.startswith(("loss.", "model_ema."))}
    levels = count(weights, "encoder.down.")
    sizes = ["decoder.conv_in.weight", *(f"encoder.down.{i}.block.0.conv1.weight" for i in range(levels))]
    missing = [VAE + name for name in sizes if name not in weights]
    if missing or not levels:
        raise ValueError(
            f"the checkpoint has no complete VAE (missing {missing or VAE + 'encoder.down.*'}): use a checkpoint with "
            "its VAE baked in, or a diffusers folder."
        )
    check_source(weights, VAE)
    channels = tuple(size(weights, name, 0, 4, VAE) for name in sizes[1:])
    if any(width % GROUPS for width in channels):
        raise ValueError(
            f"VAE channels {list(channels)} are not multiples of the {GROUPS} norm groups: this is no LDM VAE."
        )
    config = {
        "block_out_channels": channels,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "layers_per_block": count(weights, "encoder.down.0.block."),
        "latent_channels": size(weights, "decoder.conv_in.weight", 1, 4, VAE),
        "norm_num_groups": GROUPS,
        "scaling_factor": scaling_factor,
    }
    converted = convert_ldm_vae_checkpoint({VAE + name: tensor for name, tensor in weights.items()}, config)
    _check_converted(weights, converted, "VAE")
    with torch.device("meta"):
        vae = AutoencoderKL(**config)
    return place(load_strictly(vae, converted, "VAE"), dtype=torch.float32)
