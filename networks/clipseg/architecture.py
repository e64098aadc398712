"""What a CLIPSeg folder's JSON files say about the network: its sizes and its pictures, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...files.fields import Fields, array, boolean, check_fields, integer, number
from ...files.plain_json import AGAIN, read_json
from ..clip.sizes import ACTIVATIONS, EPSILON, TEXT, TEXT_DEFAULTS, check_heads, sizes
from ..clip.words import END, Words

#: The last is where transformers 5 saves a whole processor: what it does to pictures is one part of it.
CONFIG, PREPROCESSING, PROCESSOR = "config.json", "preprocessor_config.json", "processor_config.json"

_VISION: Fields = {
    "hidden_size": integer(1, 8192),
    "intermediate_size": integer(1, 65536),
    "num_hidden_layers": integer(1, 128),
    "num_attention_heads": integer(1, 256),
    "num_channels": integer(3, 3),
    "image_size": integer(1, 4096),
    "patch_size": integer(1, 256),
    "hidden_act": ACTIVATIONS,
    "layer_norm_eps": EPSILON,
}
_VISION_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
_DECODER: Fields = {
    "projection_dim": integer(1, 8192),
    "reduce_dim": integer(2, 8192),
    "decoder_num_attention_heads": integer(1, 256),
    "decoder_intermediate_size": integer(1, 65536),
    "conditional_layer": integer(0, 127),
    "use_complex_transposed_convolution": boolean(),
}
_DECODER_DEFAULTS = {
    "projection_dim": 512,
    "reduce_dim": 64,
    "decoder_num_attention_heads": 4,
    "decoder_intermediate_size": 2048,
    "conditional_layer": 0,
    "use_complex_transposed_convolution": False,
    "extract_layers": [3, 6, 9],
}
_PICTURES: Fields = {
    "do_resize": boolean(),
    "do_rescale": boolean(),
    "do_normalize": boolean(),
    "rescale_factor": number(0.999 / 255, 1.001 / 255),
    "image_mean": array(number(-1.0, 1.0), 3, 3),
    "image_std": array(number(1e-3, 10.0), 3, 3),
}
#: As published, with ImageNet's statistics.
_PICTURES_DEFAULTS = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "rescale_factor": 1 / 255,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "size": 352,
}
_SIDE = integer(1, 4096)


@dataclass(frozen=True)
class Architecture:
    """The sizes of a CLIPSeg network, by transformers' names.

    :param path: the file that they are from, for messages.
    """

    path: Path
    text: Mapping[str, Any]
    vision: Mapping[str, Any]
    decoder: Mapping[str, Any]

    def configuration(self, words: Words) -> Any:
        """transformers' CLIPSegConfig, with these sizes and the tokenizer's own end mark.

        :raises ValueError: the tokenizer has words that the network does not know.
        """
        from transformers import CLIPSegConfig

        word, last = max(words.ids.items(), key=lambda entry: entry[1])
        if last >= self.text["vocab_size"]:
            raise ValueError(
                f"{words.path}: the id of {word!r} is {last}, but text_config.vocab_size in {self.path.name} is "
                f"{self.text['vocab_size']}: they are of two models. {AGAIN}"
            )
        end = words.ids[END]
        marks = {"bos_token_id": None, "pad_token_id": end, "eos_token_id": end}
        return CLIPSegConfig(text_config={**self.text, **marks}, vision_config=dict(self.vision), **self.decoder)


@dataclass(frozen=True)
class Preprocessing:
    """What pictures in 0..1 become before the network sees them: squares of a side, normed by mean and spread."""

    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def read_architecture(folder: Path) -> Architecture:
    """The sizes in a folder's config.json.

    :raises ValueError: a size that no such network has, or sizes that do not go together.
    """
    path = folder / CONFIG
    config = read_json(path)
    text = sizes(_section(config, "text_config", path), TEXT, TEXT_DEFAULTS, f"{path}: text_config")
    vision = sizes(_section(config, "vision_config", path), _VISION, _VISION_DEFAULTS, f"{path}: vision_config")
    depth = vision["num_hidden_layers"]
    layers = array(integer(0, depth - 1), 1, depth, alone=False)
    decoder = sizes(config, {**_DECODER, "extract_layers": layers}, _DECODER_DEFAULTS, str(path))
    for called, width, heads in (
        ("text_config: num_attention_heads", text["hidden_size"], text["num_attention_heads"]),
        ("vision_config: num_attention_heads", vision["hidden_size"], vision["num_attention_heads"]),
        ("decoder_num_attention_heads", decoder["reduce_dim"], decoder["decoder_num_attention_heads"]),
    ):
        check_heads(width, heads, f"{path}: {called}")
    if decoder["conditional_layer"] >= len(decoder["extract_layers"]):
        raise ValueError(
            f"{path}: conditional_layer is {decoder['conditional_layer']}; expected one of the "
            f"{len(decoder['extract_layers'])} of extract_layers, counted from 0. {AGAIN}"
        )
    patch = vision["patch_size"]
    if decoder["use_complex_transposed_convolution"] and (patch // 4) ** 2 != patch:
        raise ValueError(
            f"{path}: vision_config: patch_size is {patch}; with use_complex_transposed_convolution it must be 16. "
            f"{AGAIN}"
        )
    return Architecture(path, text, vision, {**decoder, "extract_layers": list(decoder["extract_layers"])})


def read_preprocessing(folder: Path, patch: int) -> Preprocessing:
    """What a folder's preprocessor_config.json, else its processor_config.json says about pictures.

    The published values count where neither does.

    :param patch: pixels of a patch's side.
    :raises ValueError: a side of no whole patches, or numbers that are none.
    """
    path = folder / PREPROCESSING
    own = read_json(path) if path.is_file() else {}
    if not path.is_file() and (folder / PROCESSOR).is_file():
        path = folder / PROCESSOR
        own = _section(read_json(path), "image_processor", path)
    said = {**_PICTURES_DEFAULTS, **own}
    found = check_fields(said, _PICTURES, str(path), AGAIN)
    for name in ("do_resize", "do_rescale", "do_normalize"):
        if not found[name]:
            raise ValueError(f"{path}: {name} is off; expected on, as for every CLIPSeg. {AGAIN}")
    size = said["size"]
    if isinstance(size, Mapping):
        sides = {name: size[name] for name in ("height", "width", "shortest_edge") if size.get(name) is not None}
    else:
        sides = {"side": size}
    checked = check_fields(sides, dict.fromkeys(sides, _SIDE), f"{path}: size", AGAIN)
    if len(set(checked.values())) != 1:
        raise ValueError(f"{path}: size is {checked or 'empty'}; expected a square. {AGAIN}")
    side = next(iter(checked.values()))
    if side % patch:
        raise ValueError(
            f"{path}: pictures of side {side} are no whole number of patches of {patch}, which is "
            f"vision_config.patch_size in {CONFIG}. {AGAIN}"
        )
    return Preprocessing(side, found["image_mean"], found["image_std"])


def _section(config: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    """A part of the configuration; the oldest files have it under another name, which then counts."""
    for called in (f"{name}_dict", name):
        section = config.get(called)
        if section is not None:
            check_fields(section, {}, f"{path}: {called}", AGAIN)
            return section
    return {}
