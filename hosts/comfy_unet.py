"""ComfyUI's words for a UNet's layout, from diffusers' words for the same thing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def unet_options(unet: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of diffusers' UNet2DConditionModel -> those of ComfyUI's UNetModel.

    :param unet: an SD 1.x-like layout: one transformer depth a level, convolutions as projections or not.
    :raises ValueError: heads or normalisation groups that ComfyUI's class can't have.
    """
    widths = unet["block_out_channels"]
    blocks = unet["layers_per_block"]
    down = ["CrossAttn" in kind for kind in unet["down_block_types"]]
    up = ["CrossAttn" in kind for kind in reversed(unet["up_block_types"])]
    if unet["norm_num_groups"] != 32:
        found = unet["norm_num_groups"]
        raise ValueError(f"The UNet has {found} normalisation groups; ComfyUI's needs 32: get the file again.")
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
            f"The UNet has {list(heads)} heads, {sorted(found)} channels wide; ComfyUI's needs one number or one width: get "
            "the file again."
        )
    return {"num_heads": -1, "num_head_channels": found.pop()}
