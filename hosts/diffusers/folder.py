"""The components of a diffusers folder, each built from what its config.json says of sizes and loaded strictly.

``from_pretrained`` would fill missing weights with random numbers and only warn, and ``from_config`` would follow
whatever a configuration says. Here every value that counts is described with its bounds, and of the others it is
asked that they say nothing: a network that needs them is no Stable Diffusion.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...files import ldm
from ...files.fields import Fields, array, boolean, check_fields, integer, number, optional, string
from ...files.headers import check_levels
from ...files.numbers import check_numbers
from ...files.plain_json import AGAIN, read_json, short
from ...files.tensors import read_component, read_tensors
from ...networks.clip.sizes import text_configuration
from . import text_encoders as text

UNSUPPORTED = "SD 1.x, 2.x or SDXL is needed: a diffusers folder, or a checkpoint with UNet, VAE and text encoder."
_OWN_VAE = "give one as diffusers has it, with its config.json beside it."
_NEW_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_ATTENTION = re.compile(r"(?<=\.)(query|key|value|proj_attn)(?=\.(?:weight|bias)$)")

_WIDTH, _SIDE = integer(1, 16_384), array(integer(1, 16_384), 2, 2, alone=True)
_LEVELS = (1, 8)
_ACTIVATION = string("silu", "swish", "mish", "gelu", "relu")
_UNET: Fields = {
    "sample_size": _SIDE,
    "in_channels": _WIDTH,
    "out_channels": _WIDTH,
    "center_input_sample": boolean(),
    "flip_sin_to_cos": boolean(),
    "freq_shift": integer(0, 1),
    "down_block_types": array(string("CrossAttnDownBlock2D", "DownBlock2D"), *_LEVELS),
    "mid_block_type": string("UNetMidBlock2DCrossAttn"),
    "up_block_types": array(string("CrossAttnUpBlock2D", "UpBlock2D"), *_LEVELS),
    "block_out_channels": array(_WIDTH, *_LEVELS),
    "layers_per_block": array(integer(1, 16), *_LEVELS, alone=True),
    "downsample_padding": integer(0, 1),
    "mid_block_scale_factor": number(1e-3, 1e3),
    "dropout": number(0, 1),
    "act_fn": _ACTIVATION,
    "norm_num_groups": integer(1, 1024),
    "norm_eps": number(1e-12, 1e-2),
    "cross_attention_dim": array(_WIDTH, *_LEVELS, alone=True),
    "transformer_layers_per_block": array(integer(1, 64), *_LEVELS, alone=True),
    # diffusers' name is historical: what it calls the heads' width is their number
    "attention_head_dim": array(integer(1, 1024), *_LEVELS, alone=True),
    "use_linear_projection": boolean(),
    "upcast_attention": boolean(),
    "resnet_time_scale_shift": string("default", "scale_shift"),
    "time_cond_proj_dim": integer(1, 16_384),
    "addition_embed_type": string("text_time"),
    "addition_time_embed_dim": _WIDTH,
    "projection_class_embeddings_input_dim": integer(1, 65_536),
}
_VAE: Fields = {
    "in_channels": integer(3, 3),
    "out_channels": integer(3, 3),
    "down_block_types": array(string("DownEncoderBlock2D", "AttnDownEncoderBlock2D"), *_LEVELS),
    "up_block_types": array(string("UpDecoderBlock2D", "AttnUpDecoderBlock2D"), *_LEVELS),
    "block_out_channels": array(_WIDTH, *_LEVELS),
    "layers_per_block": integer(1, 16),
    "act_fn": _ACTIVATION,
    "latent_channels": integer(1, 256),
    "norm_num_groups": integer(1, 1024),
    "sample_size": _SIDE,
    "scaling_factor": number(1e-4, 1e4),
    "force_upcast": boolean(),
    "use_quant_conv": boolean(),
    "use_post_quant_conv": boolean(),
    "mid_block_add_attention": boolean(),
}
_BLOCKS = array(integer(1, 16), *_LEVELS)
_TINY: Fields = {
    "in_channels": integer(3, 3),
    "out_channels": integer(3, 3),
    "encoder_block_out_channels": array(_WIDTH, *_LEVELS),
    "decoder_block_out_channels": array(_WIDTH, *_LEVELS),
    "num_encoder_blocks": _BLOCKS,
    "num_decoder_blocks": _BLOCKS,
    "act_fn": string("relu"),
    "upsample_fn": string("nearest"),
    "upsampling_scaling_factor": integer(2, 2),
    "latent_channels": integer(1, 256),
    "latent_magnitude": number(0, 1e4),
    "latent_shift": number(-1e4, 1e4),
    "scaling_factor": number(1e-4, 1e4),
    "force_upcast": boolean(),
}
#: What is left out has diffusers' defaults, which are not Stable Diffusion's.
_SCHEDULE = {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02, "num_train_timesteps": 1000}
_SCHEDULER: Fields = {
    "_class_name": string(),
    "beta_schedule": string("scaled_linear", "linear"),
    "beta_start": number(1e-6, 0.999),
    "beta_end": number(1e-6, 0.999),
    "num_train_timesteps": integer(2, 100_000),
    "rescale_betas_zero_snr": boolean(),
    "prediction_type": string("epsilon", "v_prediction"),
}


def load_unet(path: Path) -> Any:
    """The UNet of a folder, dtypes as stored.

    :raises ValueError: it is another network, or incomplete; the message names the file.
    """
    from diffusers import UNet2DConditionModel

    file = path / "unet" / "config.json"
    if not file.is_file():
        found = sorted(entry.name for entry in path.iterdir())
        raise ValueError(f"{path} has no unet/config.json (found {found[:12]}); {UNSUPPORTED}")
    return _load(path / "unet", UNet2DConditionModel, _UNET)


def load_vae(path: Path) -> Any:
    """The autoencoder of a folder; raises as :func:`load_unet`."""
    from diffusers import AutoencoderKL

    return _load(path / "vae", AutoencoderKL, _VAE)


def load_own_vae(path: Path) -> Any:
    """An autoencoder by itself: a folder of diffusers' AutoencoderTiny (TAESD) or AutoencoderKL, or a file of one.

    A file is read with the config.json beside it; without that it has to be an AutoencoderTiny of TAESD's sizes.

    :raises FileNotFoundError: there is nothing.
    :raises ValueError: it is another network, or incomplete; the message names the file.
    """
    from diffusers import AutoencoderKL, AutoencoderTiny

    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: give a folder or file of a VAE.")
    folder = path if path.is_dir() else path.parent
    said = read_json(folder / "config.json") if (folder / "config.json").is_file() else None
    kinds: dict[str, tuple[Any, Fields]] = {
        "AutoencoderTiny": (AutoencoderTiny, _TINY),
        "AutoencoderKL": (AutoencoderKL, _VAE),
    }
    if said is None and path.is_dir():
        raise ValueError(f"{path} has no config.json, expected a folder of {' or '.join(kinds)}; {_OWN_VAE}")
    name = "AutoencoderTiny" if said is None else said.get("_class_name")
    if not isinstance(name, str) or name not in kinds:
        raise ValueError(f"{path} is a {short(name)}, expected {' or '.join(kinds)}; {_OWN_VAE}")
    if path.is_dir():
        return _load(path, *kinds[name])
    weights = read_tensors(path)
    if said is None and "encoder.layers.0.weight" not in weights:
        raise ValueError(f"{path} holds {ldm.describe(weights)}, expected AutoencoderTiny; {_OWN_VAE}")
    return _load(path, *kinds[name], said={"_class_name": name} if said is None else said, weights=weights)


def load_text(path: Path, name: str, *, projection: bool) -> Any:
    """A CLIP text encoder of a folder, float32; raises as :func:`load_unet`.

    :param name: of its own folder.
    """
    file = path / name / "config.json"
    kind = read_json(file).get("model_type")
    if kind not in ("clip_text_model", "clip"):
        raise ValueError(f"{path / name} is a {short(kind)} model, expected CLIP; {UNSUPPORTED}")
    weights = read_component(path / name)
    return text.clip_model(text_configuration(file), weights, str(path / name), projection=projection)


def read_scheduler(path: Path) -> dict[str, Any]:
    """What a folder's scheduler says of noise levels and of what is predicted: diffusers' names.

    :raises ValueError: noise levels that are not Stable Diffusion's; the message names the file.
    """
    file = path / "scheduler" / "scheduler_config.json"
    said = read_json(file)
    kind = str(said.get("_class_name"))
    if "Flow" in kind or "EDM" in kind or said.get("trained_betas") is not None:
        raise ValueError(
            f"{file} describes {short(kind)}, whose noise levels are not Stable Diffusion's; {UNSUPPORTED}"
        )
    found = {**_SCHEDULE, "rescale_betas_zero_snr": False, "prediction_type": "epsilon"}
    found |= check_fields(said, _all_optional(_SCHEDULER), str(file), AGAIN)
    if found["beta_start"] > found["beta_end"]:
        raise ValueError(f"{file}: beta_start is above beta_end, which is {found['beta_end']:g}. {AGAIN}")
    return found


def _load(
    folder: Path,
    cls: Any,
    fields: Fields,
    said: Mapping[str, Any] | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> Any:
    """A component, from its own configuration.

    :param said: by its configuration, and ``weights``, where they were read already, of a file in the folder's place.
    """
    file = folder / "config.json" if said is None else folder
    said = read_json(file) if said is None else said
    if said.get("_class_name") != cls.__name__:
        raise ValueError(f"{folder} is a {short(said.get('_class_name'))}, expected {cls.__name__}; {UNSUPPORTED}")
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(cls.__init__).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    for name, default in defaults.items():
        value = said.get(name)
        if name not in fields and not _says_nothing(value, default):
            raise ValueError(f"{file}: {name} is {short(value)}, expected {default}; {UNSUPPORTED}")
    arguments = {name: defaults[name] for name in fields if name in defaults}
    arguments |= check_fields(said, _all_optional(fields), str(file), AGAIN)
    _check_sizes(file, arguments)
    weights = read_component(folder) if weights is None else weights
    if cls.__name__ == "AutoencoderKL":  # folders of 2022 have the attention's old names
        weights = {_OLD_ATTENTION.sub(lambda m: _NEW_ATTENTION[m[1]], key): w for key, w in weights.items()}
    try:
        with torch.device("meta"):
            module = cls(**arguments)
    except (ValueError, TypeError, RuntimeError, LookupError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"{file} has values that do not go together. {AGAIN}") from error
    loaded = ldm.load_strictly(module, weights, str(folder))
    check_numbers(weights, called=str(folder))
    return loaded


def _says_nothing(value: Any, default: Any) -> bool:
    """Whether a value is as good as left out: null, off where nothing is the default, or the default, once or a level.

    JSON of other programs does not tell 1 from 1.0.
    """
    if isinstance(value, list):
        return len(value) <= _LEVELS[1] and all(_says_nothing(each, default) for each in value)
    if isinstance(value, bool) or isinstance(default, bool):
        return value is None or value is default or (value is False and default is None)
    return value is None or value == default


def _check_sizes(file: Path, arguments: Mapping[str, Any]) -> None:
    """:raises ValueError: lists that have not an entry for each level, or channels that cannot be split."""
    if "encoder_block_out_channels" in arguments:
        _check_tiny(file, arguments)
        return
    channels = arguments["block_out_channels"]
    try:
        check_levels({"attention_head_dim": 1, **arguments}, str(file))
        for name in ("layers_per_block", "cross_attention_dim", "transformer_layers_per_block"):
            value = arguments.get(name)
            if isinstance(value, tuple) and len(value) != len(channels):
                raise ValueError(f"{file}: {name} has {len(value)} values, but block_out_channels has {len(channels)}.")
    except ValueError as error:
        raise ValueError(f"{error} {AGAIN}") from error


def _all_optional(fields: Fields) -> Fields:
    return {name: optional(field, null=True) for name, field in fields.items()}


def _check_tiny(file: Path, arguments: Mapping[str, Any]) -> None:
    """:raises ValueError: levels of an AutoencoderTiny that differ in width or number, which diffusers cannot run."""
    for side in ("encoder", "decoder"):
        widths, blocks = arguments[f"{side}_block_out_channels"], arguments[f"num_{side}_blocks"]
        if len(set(widths)) != 1 or len(widths) != len(blocks):
            raise ValueError(
                f"{file}: {side}_block_out_channels is {list(widths)} beside num_{side}_blocks {list(blocks)}, "
                f"expected one width, and one number of blocks a level. {AGAIN}"
            )
    if len(arguments["num_encoder_blocks"]) != len(arguments["num_decoder_blocks"]):
        raise ValueError(f"{file}: num_encoder_blocks and num_decoder_blocks have other numbers of levels. {AGAIN}")
