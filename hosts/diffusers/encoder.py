"""A vision encoder without ComfyUI: DINOv2, DINOv3, SigLIP or CLIP as transformers' files have them.

Of a folder only sizes and weights are read; which classes are made of them is said here. A file is read with the
config.json beside it. Nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...color.batches import freed
from ...files.fields import Fields, array, boolean, check_fields, integer, number, string
from ...files.numbers import check_numbers
from ...files.plain_json import AGAIN, read_json, short
from ...files.tensors import digest, read_component, read_tensors
from ...networks.clip.sizes import EPSILON, check_heads, sizes
from ...pipelines.encoder_features import blocks_of, watched

if TYPE_CHECKING:
    from ...pipelines.encoder_features import Encoder

CONFIG, PREPROCESSING, PROCESSOR = "config.json", "preprocessor_config.json", "processor_config.json"

_SIZES: Fields = {
    "hidden_size": integer(1, 8192),
    "intermediate_size": integer(1, 65536),
    "num_hidden_layers": integer(1, 128),
    "num_attention_heads": integer(1, 256),
    "num_channels": integer(3, 3),
    "image_size": integer(1, 4096),
    "patch_size": integer(1, 256),
    "hidden_act": string("quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu"),
    "layer_norm_eps": EPSILON,
    "mlp_ratio": number(0.1, 64),
    "use_swiglu_ffn": boolean(),
    "qkv_bias": boolean(),
    "num_register_tokens": integer(0, 64),
    "rope_theta": number(1, 1e7),
    "use_gated_mlp": boolean(),
    **dict.fromkeys(("query_bias", "key_bias", "value_bias", "proj_bias", "mlp_bias"), boolean()),
}
_WIDE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "num_channels": 3, "image_size": 224}
_CLIP = {**_WIDE, "intermediate_size": 3072, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_SIGLIP = {**_CLIP, "patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
_DINO = {**_WIDE, "patch_size": 14, "hidden_act": "gelu", "layer_norm_eps": 1e-6, "mlp_ratio": 4, "qkv_bias": True}
_DINO2 = {**_DINO, "use_swiglu_ffn": False}
_DINO3 = {
    **{**_WIDE, "hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "patch_size": 16},
    **{"hidden_act": "gelu", "layer_norm_eps": 1e-5, "num_register_tokens": 0, "rope_theta": 100.0},
    **{"use_gated_mlp": False, "query_bias": True, "key_bias": False, "value_bias": True},
    **{"proj_bias": True, "mlp_bias": True},
}
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_OPENAI = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_EVEN = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
_PICTURES: Fields = {"image_mean": array(number(-1.0, 1.0), 3, 3), "image_std": array(number(1e-3, 10.0), 3, 3)}
#: Where a whole CLIP or SigLIP keeps the part that looks at pictures.
_PART = "vision_model."
#: What a whole model's file holds beside the part that looks at pictures' places.
_BESIDE = ("text_model.", "text_projection", "visual_projection", "logit_", "classifier", "head.", "vision_model.head.")


@dataclass(frozen=True)
class _Kind:
    """A family as a config.json names it.

    :param classes: transformers' class is ``{classes}Model``, its configuration ``{classes}Config``.
    :param defaults: sizes that the file may leave out; what is not among them this family does not have.
    :param normed: statistics of pictures where no file says them.
    :param fixed: whether learned positions are for one size unless asked otherwise.
    """

    family: str
    classes: str
    defaults: Mapping[str, Any]
    normed: Mapping[str, list[float]]
    fixed: bool = False


_CLIP_KIND = _Kind("CLIP", "CLIPVision", _CLIP, _OPENAI, True)
_SIGLIP_KIND = _Kind("SigLIP", "SiglipVision", _SIGLIP, _EVEN, True)
_KINDS = {
    "clip": _CLIP_KIND,
    "clip_vision_model": _CLIP_KIND,
    "siglip": _SIGLIP_KIND,
    "siglip_vision_model": _SIGLIP_KIND,
    "dinov2": _Kind("DINOv2", "Dinov2", _DINO2, _IMAGENET),
    "dinov2_with_registers": _Kind("DINOv2", "Dinov2WithRegisters", {**_DINO2, "num_register_tokens": 4}, _IMAGENET),
    "dinov3_vit": _Kind("DINOv3", "DINOv3ViT", _DINO3, _IMAGENET),
}


@dataclass(frozen=True)
class TransformersEncoder:
    """An encoder that transformers runs (see ``pipelines.encoder_features``).

    :param fixed: whether it must be asked to fit its positions to the pictures' size.
    """

    network: nn.Module
    name: str
    fingerprint: str
    patch: int
    side: int
    width: int
    extra: int
    normed: tuple[Sequence[float], Sequence[float]]
    fixed: bool

    @property
    def depth(self) -> int:
        """How many blocks there are."""
        return len(blocks_of(self.network))

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return next(self.network.parameters()).device

    def tokens(self, pixels: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """(B, 3, H, W), normed -> tokens behind each block, on its device and in its dtype."""
        asked = {"interpolate_pos_encoding": True} if self.fixed else {}
        weight = next(self.network.parameters())
        modules = blocks_of(self.network)
        with torch.no_grad(), watched([modules[index] for index in blocks]) as found:
            self.network(pixel_values=pixels.to(weight.device, weight.dtype), **asked)
        return found

    def out_of_memory(self, error: Exception) -> bool:
        """Whether an error says that memory ran out; if so, what can be freed is freed."""
        return freed(error, self.device)


def load_encoder(
    path: Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> TransformersEncoder:
    """An encoder from a folder with config.json and weights, or from a file of weights beside its config.json.

    :raises FileNotFoundError: there is no such file or folder.
    :raises ValueError: another kind of model, incomplete, or damaged; the message names file and place.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: give a folder of an encoder with its {CONFIG} and weights.")
    folder = path if path.is_dir() else path.parent
    kind, found = read_sizes(folder, path)
    tensors = read_component(path) if path.is_dir() else read_tensors(path)
    tensors = {name: t for name, t in tensors.items() if not name.startswith(_BESIDE) and "position_ids" not in name}
    check_numbers(tensors, called=str(path))
    if kind.fixed:  # as published; transformers 5 saves a vision model without it
        tensors = {name if name.startswith(_PART) else f"{_PART}{name}": t for name, t in tensors.items()}
    network = _built(kind, found, tensors, path)
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d)).weight
    fingerprint = f"{kind.family}-{digest(first)}"
    return TransformersEncoder(
        network.to(device, dtype).eval().requires_grad_(False),
        folder.name if path.is_dir() else path.stem,
        fingerprint,
        found["patch_size"],
        found["image_size"],
        found["hidden_size"],
        0 if kind.family == "SigLIP" else 1 + found.get("num_register_tokens", 0),
        read_normed(folder, kind.normed),
        kind.fixed,
    )


def read_sizes(folder: Path, path: Path) -> tuple[_Kind, dict[str, Any]]:
    """Family and sizes that a folder's config.json says.

    :param path: what the user gave, for messages.
    :raises ValueError: no encoder of pictures, or sizes that none has.
    """
    config = folder / CONFIG
    content = read_json(config) if config.is_file() else {}
    said = content.get("model_type")
    kind = _KINDS.get(said) if isinstance(said, str) else None
    if kind is None:
        found = f"a model of the type {said!s:.60}" if content else f"no {CONFIG}"
        raise ValueError(
            f"{path}: found {found}, expected DINOv2, DINOv3, SigLIP or CLIP with its {CONFIG}; download such a folder."
        )
    section = content.get("vision_config", content)
    called = f"{config}: vision_config" if "vision_config" in content else str(config)
    check_fields(section, {}, called, AGAIN)
    fields = {name: _SIZES[name] for name in kind.defaults}
    found = sizes({name: section[name] for name in fields if name in section}, fields, kind.defaults, called)
    check_heads(found["hidden_size"], found["num_attention_heads"], f"{called}: num_attention_heads")
    return kind, found


def read_normed(folder: Path, defaults: Mapping[str, list[float]]) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and spread of pictures' channels, as a folder's preprocessing says them.

    :raises ValueError: numbers that are none.
    """
    path, own = folder / PREPROCESSING, {}
    if path.is_file():
        own = read_json(path)
    elif (folder / PROCESSOR).is_file():
        path = folder / PROCESSOR
        own = read_json(path).get("image_processor", {})
        check_fields(own, {}, f"{path}: image_processor", AGAIN)
    found = check_fields({**defaults, **own}, _PICTURES, str(path), AGAIN)
    return found["image_mean"], found["image_std"]


def _built(kind: _Kind, found: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> nn.Module:
    """The network with its weights: transformers knows the names that its versions gave them."""
    import transformers

    network = getattr(transformers, f"{kind.classes}Model", None)
    if network is None:
        raise ValueError(
            f"{path}: found {kind.family}, which transformers {transformers.__version__} does not know; update it."
        )
    head = {"vision_use_head": False} if kind.family == "SigLIP" else {}
    config = getattr(transformers, f"{kind.classes}Config")(**found, **head)
    with _quietly(transformers):
        try:
            made, told = network.from_pretrained(
                None, config=config, state_dict=dict(tensors), output_loading_info=True
            )
        except RuntimeError as error:  # sizes that differ
            raise ValueError(f"{path}: its weights are not of the sizes in {CONFIG}. {AGAIN}") from error
    # the token that stands for what training hides is in no use
    missing = sorted(name for name in told["missing_keys"] if not name.endswith("mask_token"))
    if missing or told["unexpected_keys"] or told["mismatched_keys"]:
        wrong = missing or sorted(map(str, told["unexpected_keys"] or told["mismatched_keys"]))
        what = "lacks" if missing else "should not have" if told["unexpected_keys"] else "has in another size"
        raise ValueError(f"{path} {what} {short(wrong[0])} (of {len(wrong)}), judged by its {CONFIG}. {AGAIN}")
    return made


@contextmanager
def _quietly(transformers: Any) -> Iterator[None]:
    """Loading without bars and reports: what is wrong is said by us."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


if TYPE_CHECKING:  # the contract, checked
    _: type[Encoder] = TransformersEncoder
