"""Stable Diffusion checkpoints in LDM naming -> diffusers modules, with every size read from the file.

LDM naming is that of the original Stable Diffusion programs and of nearly every single-file checkpoint:
``model.diffusion_model.*``, ``first_stage_model.*``, ``cond_stage_model.*`` (SD 1.x, 2.x) or ``conditioner.*`` (SDXL).
diffusers' own converters rename the keys. They also drop, silently, every key that they do not know, so it is checked
that nothing was lost, and the result is loaded strictly. The only facts that no shape tells are stated as constants.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from .numbers import check_numbers

Module = TypeVar("Module", bound=nn.Module)

UNET = "model.diffusion_model."
VAE = "first_stage_model."

#: Which text encoders a checkpoint may have: OpenAI's CLIP, OpenCLIP, or both.
Family = Literal["sd1", "sd2", "sdxl"]
#: Side of the pictures that a family was trained on, where it is not the papers'.
_NATIVE_SIDES: dict[Family, int] = {"sdxl": 1024}
SD1_TEXT = "cond_stage_model.transformer."
_SD2_TEXT = ("cond_stage_model.model.", "conditioner.embedders.0.model.")  # the second: saved by SDXL's program
_SDXL_TEXT = ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model.")

GROUPS = 32  # of every GroupNorm in the LDM programs
_SD1_HEADS = 8  # SD 1.x fixes the number of heads ...
HEAD_WIDTH = 64  # ... SD 2.x, SDXL and all their text encoders fix the width of a head
_TIME_ID_WIDTH = 256  # SDXL: Fourier features for each of the six size numbers

#: How many axes tensors have, by the ends of their names; the first that fits counts.
_AXES = (
    (("bias",), (1,)),
    (("norm.weight", "norm1.weight", "norm2.weight", "norm3.weight"), (1,)),
    (("in_proj_weight", "text_projection", "embedding.weight", "positional_embedding"), (2,)),
    ((".q.weight", ".k.weight", ".v.weight", ".proj_out.weight"), (2, 4)),
    ((".weight",), (1, 2, 4)),
)

# What other files look like; the first pattern that any key matches names the file.
_KINDS = (
    ("a LoRA", r"lora_(down|up|A|B|unet|te)|\.lora[._]|hada_w1|lokr_w1|\.dora_scale"),
    ("a ControlNet", r"^control_model\.|zero_convs\.|controlnet_cond_embedding|controlnet_blocks"),
    ("an IP-Adapter", r"^ip_adapter\.|to_k_ip"),
    ("a textual inversion embedding", r"^(emb_params$|string_to_param\b|clip_[lg]$)"),
    ("a video model", r"time_stack|time_mixer|temporal_|temp_convs|motion_modules|patch_embedding\.|head\.modulation"),
    ("a Flux transformer", r"(^|\.)(double_blocks|single_transformer_blocks)\."),
    ("an SD3 transformer", r"(^|\.)joint_blocks\."),
    (
        "another diffusion transformer",
        r"(^|(?<!encoder)\.)(transformer_blocks|blocks|layers)\.\d+\.(attn|self_attn|attention)\b",
    ),
    ("an SD-like UNet", r"(^|\.)input_blocks\.0\.0\.weight$"),
    ("one component in diffusers naming", r"^(down_blocks\.0\.|encoder\.down_blocks\.)"),
    ("a VAE only", r"(^|\.)decoder\.(conv_in|middle|up)\b"),
    ("a text encoder only", r"token_embedding|text_model\.|resblocks\."),
)


def describe(keys: Iterable[str]) -> str:
    """What a file with these tensor names probably is, as a phrase for error messages."""
    names = list(keys)
    for kind, pattern in _KINDS:
        if any(re.search(pattern, name) for name in names):
            return kind
    return f"tensors named like {sorted(names)[:3]}" if names else "no tensors"


def listed(names: Iterable[str], limit: int = 5) -> str:
    """Names for an error message: the first few, and how many there are."""
    names = sorted(names)
    more = f" ... ({len(names)} in all)" if len(names) > limit else ""
    return f"[{', '.join(names[:limit])}{more}]"


def part(state_dict: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix, without it."""
    return {name[len(prefix) :]: tensor for name, tensor in state_dict.items() if name.startswith(prefix)}


def native_recommendation(family: Family) -> dict[str, dict[str, Any]]:
    """What follows from a family alone, as a file's recommendation would say it: system -> setting -> value."""
    side = _NATIVE_SIDES.get(family)
    return {} if side is None else {system: {"resolution": side} for system in ("exemplar", "memory", "vct")}


def text_family(names: Iterable[str]) -> tuple[Family, tuple[str, ...]] | None:
    """The family of a checkpoint, which its text encoders' names tell, and their prefixes; None without any.

    An SDXL refiner counts as ``sd2``: its one text encoder is like that of SD 2.x, and its UNet tells them apart.
    """
    names = list(names)

    def has(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in names)

    if has(_SDXL_TEXT[1]):
        return "sdxl", _SDXL_TEXT
    if has(SD1_TEXT):
        return "sd1", (SD1_TEXT,)
    prefix = next(filter(has, _SD2_TEXT), None)
    return None if prefix is None else ("sd2", (prefix,))


def size(weights: Mapping[str, Tensor], name: str, axis: int, axes: int, prefix: str = "") -> int:
    """How long an axis of a tensor is, which tells a size of its network.

    :param axes: how many the tensor must have.
    :param prefix: what stands before the name in the file.
    :raises ValueError: the tensor is missing, has other axes, or is empty.
    """
    if name not in weights:
        raise ValueError(f"`{prefix}{name}` is missing: the file is incomplete; get the full one.")
    shape = tuple(weights[name].shape)
    if len(shape) != axes or 0 in shape:
        raise ValueError(f"`{prefix}{name}` has the shape {shape}, expected {axes} axes: get the original file.")
    return shape[axis]


def check_source(weights: Mapping[str, Tensor], prefix: str) -> None:
    """Whether tensors have the axes that their names promise, and hold numbers that a network can use.

    diffusers' converters take this for granted.

    :param weights: in LDM, transformers' or OpenCLIP's names, less ``prefix``.
    :raises ValueError: naming the first that does not.
    """
    for name, tensor in weights.items():
        axes = next((axes for ends, axes in _AXES if name.endswith(ends)), ())
        if (axes and tensor.ndim not in axes) or not tensor.numel():
            expected = f"expected {' or '.join(map(str, axes))} axes" if axes else "expected numbers"
            raise ValueError(
                f"`{prefix}{name}` has the shape {tuple(tensor.shape)}, {expected}: get the original file."
            )
    check_numbers(weights, prefix)


def check_fit(module: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Whether weights are a module's, one for one.

    :param what: what the module is called in messages.
    :raises ValueError: keys that are missing or unexpected, or shapes that differ, named.
    """
    expected = module.state_dict()
    missing, unexpected = expected.keys() - weights.keys(), weights.keys() - expected.keys()
    if missing or unexpected:
        raise ValueError(
            f"{what}: missing {listed(missing)}, unexpected {listed(unexpected)} among {len(weights)} tensors where "
            f"{len(expected)} were expected: the file is incomplete or another model's; get the full checkpoint."
        )
    wrong = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if weights[name].shape != tensor.shape
    ]
    if wrong:
        raise ValueError(f"{what}: shapes differ from the architecture, {listed(wrong)}: get the original checkpoint.")


def load_strictly(module: nn.Module, weights: Mapping[str, Tensor], what: str) -> nn.Module:
    """Put weights into a module that was built on the meta device: eval mode, no gradients, dtypes as stored.

    Tensors are taken over, not copied.

    :raises ValueError: as :func:`check_fit`.
    """
    check_fit(module, weights, what)
    module.load_state_dict(dict(weights), strict=True, assign=True)
    return module.eval().requires_grad_(False)


def build(make: Callable[[], Module], weights: Mapping[str, Tensor], what: str) -> Module:
    """A module that takes weights over: made on the meta device, loaded strictly; eval mode, no gradients.

    :param what: what it is called in messages.
    :raises ValueError: as :func:`check_fit`.
    """
    with torch.device("meta"):
        module = make()
    load_strictly(module, weights, what)
    return module


def place(
    module: nn.Module, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> nn.Module:
    """A module on a device and in a dtype, by nn.Module's own ``to``.

    diffusers' override warns about modules that should stay float32, also when there are none.
    """
    return nn.Module.to(module, device=device, dtype=dtype)


def count(weights: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered children a module list with this prefix has."""
    return len({name[len(prefix) :].split(".", 1)[0] for name in weights if name.startswith(prefix)})


def unet_config(
    weights: Mapping[str, Tensor], *, heads: int | None = None, head_dim: int | None = None
) -> dict[str, Any]:
    """UNet tensors (LDM names, no prefix) -> arguments of diffusers' UNet2DConditionModel.

    See :func:`unet_from_ldm` for the arguments.

    :raises ValueError: the tensors are no SD-like UNet, or its shape is one that diffusers' class cannot have.
    """
    for name in ("input_blocks.0.0.weight", "out.2.weight", "middle_block.0.in_layers.2.weight"):
        if name not in weights:
            raise ValueError(
                f"an SD-like UNet in LDM naming needs `{name}`, but {describe(weights)} was found: use an SD 1.x, 2.x "
                "or SDXL checkpoint."
            )
    if describe(weights) == "a video model":
        raise ValueError("a UNet with temporal layers (a video model) was found: use an image checkpoint.")
    channels, depths, mid_depth = _layout(weights)
    context = "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
    _check_complete(weights, context)
    linear = weights["middle_block.1.proj_in.weight"].ndim == 2
    heads_by_level = _heads(channels, linear, heads, head_dim)
    config: dict[str, Any] = {
        "in_channels": size(weights, "input_blocks.0.0.weight", 1, 4, UNET),
        "out_channels": size(weights, "out.2.weight", 0, 4, UNET),
        "block_out_channels": tuple(channels),
        "layers_per_block": len(depths[0]),
        "down_block_types": tuple("CrossAttnDownBlock2D" if level[0] else "DownBlock2D" for level in depths),
        "up_block_types": tuple("CrossAttnUpBlock2D" if level[0] else "UpBlock2D" for level in reversed(depths)),
        # diffusers takes the middle's depth from the last level, also where that level has no transformer itself.
        "transformer_layers_per_block": (*(level[0] or 1 for level in depths[:-1]), mid_depth),
        "cross_attention_dim": size(weights, context, 1, 2, UNET),
        # diffusers' name is historical: what it calls the heads' width is their number.
        "attention_head_dim": heads_by_level,
        "use_linear_projection": linear,
        "norm_num_groups": GROUPS,
        "sample_size": 64,
    }
    if "label_emb.0.0.weight" in weights:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": _TIME_ID_WIDTH,
            "projection_class_embeddings_input_dim": size(weights, "label_emb.0.0.weight", 1, 2, UNET),
        }
    return config


def _layout(weights: Mapping[str, Tensor]) -> tuple[list[int], list[list[int]], int]:
    """Channels of each level, transformer depths of its blocks, and the middle's, as diffusers' class can have them.

    :raises ValueError: another layout.
    """
    channels, depths = _levels(weights)
    mid_depth = count(weights, "middle_block.1.transformer_blocks.")
    if not mid_depth or not any(set(level) != {0} for level in depths):
        raise ValueError("the UNet has no transformer in its middle or outer blocks: use an SD 1.x, 2.x or SDXL model.")
    blocks = {len(level) for level in depths}
    outputs = [
        count(weights, f"output_blocks.{i}.1.transformer_blocks.") for i in range(count(weights, "output_blocks."))
    ]
    mirrored = [level[0] for level in reversed(depths) for _ in range(len(level) + 1)]
    uniform = len(blocks) == 1 and all(len(set(level)) == 1 for level in depths)
    if not uniform or outputs != mirrored or depths[-1][0] not in (0, mid_depth):
        raise ValueError(
            f"transformer depths {depths} down, {mid_depth} middle, {outputs} up are not the same on each level both "
            "ways (a distilled model?): load it as a diffusers folder, which states its own layout."
        )
    bad = [width for width in channels if width % GROUPS]
    if bad:
        raise ValueError(f"UNet channels {bad} are not multiples of the {GROUPS} norm groups: this is no LDM UNet.")
    return channels, depths, mid_depth


def _check_complete(weights: Mapping[str, Tensor], context: str) -> None:
    needed = {"middle_block.1.proj_in.weight", context}
    if any(name.startswith("label_emb.0.") for name in weights):
        needed |= {f"label_emb.0.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")}
    if needed - weights.keys():
        raise ValueError(
            f"UNet: missing {listed(needed - weights.keys())}: the file is incomplete; get the full checkpoint."
        )


def _heads(channels: list[int], linear: bool, heads: int | None, head_dim: int | None) -> int | tuple[int, ...]:
    """The number of heads: one for all levels, or each level's, from what was named or from the family's habit.

    :param linear: whether the transformers' projections are linear, as in SD 2.x and SDXL.
    :raises ValueError: both are named, or channels cannot be split so.
    """
    if heads is None and head_dim is None:
        heads, head_dim = (None, HEAD_WIDTH) if linear else (_SD1_HEADS, None)
    if (heads is None) == (head_dim is None):
        raise ValueError(f"heads={heads} and head_dim={head_dim} were given: give one of the two, or neither.")
    uneven = [width for width in channels if width % (heads or head_dim or 1)]
    if uneven:
        raise ValueError(
            f"UNet channels {uneven} cannot be split into "
            + (f"{heads} heads" if heads else f"heads {head_dim} wide")
            + ": no shape in the file tells the heads, so pass heads= or head_dim=."
        )
    return heads or tuple(width // (head_dim or 1) for width in channels)


def _levels(weights: Mapping[str, Tensor]) -> tuple[list[int], list[list[int]]]:
    """Walk the input blocks: (channels of each level, transformer depth of each of its residual blocks)."""
    channels: list[int] = []
    depths: list[list[int]] = [[]]
    for i in range(1, count(weights, "input_blocks.")):
        if f"input_blocks.{i}.0.op.weight" in weights:  # a downsampling convolution ends the level
            depths.append([])
            continue
        convolution = f"input_blocks.{i}.0.out_layers.3.weight"
        if convolution not in weights:
            raise ValueError(
                f"UNet: missing `{convolution}` (neither residual block nor downsampling): "
                "the file is incomplete; get the full checkpoint."
            )
        if not depths[-1]:
            channels.append(size(weights, convolution, 0, 4, UNET))
        depths[-1].append(count(weights, f"input_blocks.{i}.1.transformer_blocks."))
    if not all(depths):
        raise ValueError("UNet: a level without residual blocks was found: the file is incomplete; get it again.")
    return channels, depths


def clip_sizes(weights: Mapping[str, Tensor], prefix: str) -> dict[str, int]:
    """The sizes of OpenAI's CLIP text encoder by their names in transformers (and in ComfyUI), from its shapes.

    :param weights: transformers' names, with or without ``text_model.``.
    :param prefix: what they are called in messages.
    :raises ValueError: a tensor that tells a size is missing.
    """
    weights = {name.removeprefix("text_model."): tensor for name, tensor in weights.items()}
    sizes = text_sizes(
        weights,
        "embeddings.token_embedding.weight",
        "embeddings.position_embedding.weight",
        "encoder.layers.0.mlp.fc1.weight",
        prefix,
    )
    return {**sizes, "num_hidden_layers": count(weights, "encoder.layers.")}


def text_sizes(
    weights: Mapping[str, Tensor], tokens: str, positions: str, feed_forward: str, prefix: str
) -> dict[str, int]:
    """The sizes of a CLIP text encoder that three of its tensors tell, in any spelling; its heads are always 64 wide.

    :param tokens: name of the table of tokens; ``positions`` of that of places, ``feed_forward`` of an inner layer.
    :param prefix: what stands before the names in the file.
    :raises ValueError: one is missing, or the width cannot be split into heads.
    """
    missing = [prefix + name for name in (tokens, positions, feed_forward) if name not in weights]
    if missing:
        raise ValueError(f"text encoder: missing {missing}: the file is incomplete; get the full checkpoint.")
    width = size(weights, tokens, 1, 2, prefix)
    heads = max(1, width // HEAD_WIDTH)
    if width % heads:
        raise ValueError(
            f"text encoder: `{prefix}{tokens}` is {width} wide, which cannot be split into {heads} heads: get the "
            "original file."
        )
    return {
        "vocab_size": size(weights, tokens, 0, 2, prefix),
        "hidden_size": width,
        "max_position_embeddings": size(weights, positions, 0, 2, prefix),
        "intermediate_size": size(weights, feed_forward, 0, 2, prefix),
        "num_attention_heads": heads,
    }
