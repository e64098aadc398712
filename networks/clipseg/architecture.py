"""What a CLIPSeg folder's JSON files say about the network: its sizes and its pictures, and nothing else.

A configuration of transformers may also name classes, other repositories, attention kernels, adapters and ways to
quantize. None of that is read: a new configuration is made from the numbers below, each within bounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...files.tensors import read_json
from ...settings import About, Entry
from ..clip.words import END, Words

CONFIG, PREPROCESSING = "config.json", "preprocessor_config.json"

_AGAIN = "Download the folder again."


def _entry(kind: type, default: Any, low: float | None = None, high: float | None = None, *options: str) -> Entry:
    return Entry("", kind, options, default, About("", low, high))


def _whole(default: int, high: int, low: int = 1) -> Entry:
    return _entry(int, default, low, high)


_ACTIVATION = _entry(str, "quick_gelu", None, None, "quick_gelu", "gelu", "gelu_new", "relu", "silu")
_EPSILON = _entry(float, 1e-5, 1e-12, 1e-2)

#: Sizes by transformers' names. A missing one has transformers' default, which versions before 5 did not write down.
_TEXT = {
    "vocab_size": _whole(49408, 1_000_000),
    "hidden_size": _whole(512, 8192),
    "intermediate_size": _whole(2048, 65536),
    "num_hidden_layers": _whole(12, 128),
    "num_attention_heads": _whole(8, 256),
    "max_position_embeddings": _whole(77, 4096, low=3),
    "hidden_act": _ACTIVATION,
    "layer_norm_eps": _EPSILON,
}
_VISION = {
    "hidden_size": _whole(768, 8192),
    "intermediate_size": _whole(3072, 65536),
    "num_hidden_layers": _whole(12, 128),
    "num_attention_heads": _whole(12, 256),
    "num_channels": _whole(3, 3, low=3),
    "image_size": _whole(224, 4096),
    "patch_size": _whole(32, 256),
    "hidden_act": _ACTIVATION,
    "layer_norm_eps": _EPSILON,
}
_DECODER = {
    "projection_dim": _whole(512, 8192),
    "reduce_dim": _whole(64, 8192, low=2),
    "decoder_num_attention_heads": _whole(4, 256),
    "decoder_intermediate_size": _whole(2048, 65536),
    "conditional_layer": _whole(0, 127, low=0),
    "use_complex_transposed_convolution": _entry(bool, False),
}
_EXTRACTED = (3, 6, 9)

#: The published side, and ImageNet's statistics.
_SIDE = _whole(352, 4096)
_MEAN, _STD = _entry(float, None, -1.0, 1.0), _entry(float, None, 1e-3, 10.0)
_MEANS, _STDS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


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
                f"{self.text['vocab_size']}: they are of two models. {_AGAIN}"
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
    text = _numbers(_section(config, "text_config", path), _TEXT, path, "text_config.")
    vision = _numbers(_section(config, "vision_config", path), _VISION, path, "vision_config.")
    decoder = _numbers(config, _DECODER, path)
    layers = _extracted(config.get("extract_layers", list(_EXTRACTED)), vision["num_hidden_layers"], path)
    for called, width, heads in (
        ("text_config.num_attention_heads", text["hidden_size"], text["num_attention_heads"]),
        ("vision_config.num_attention_heads", vision["hidden_size"], vision["num_attention_heads"]),
        ("decoder_num_attention_heads", decoder["reduce_dim"], decoder["decoder_num_attention_heads"]),
    ):
        if width % heads:
            raise ValueError(f"{path}: {called} is {heads}; expected a divisor of the width {width}. {_AGAIN}")
    if decoder["conditional_layer"] >= len(layers):
        raise ValueError(
            f"{path}: conditional_layer is {decoder['conditional_layer']}; expected one of the {len(layers)} of "
            f"extract_layers, counted from 0. {_AGAIN}"
        )
    patch = vision["patch_size"]
    if decoder["use_complex_transposed_convolution"] and (patch // 4) ** 2 != patch:
        raise ValueError(
            f"{path}: vision_config.patch_size is {patch}; with use_complex_transposed_convolution it must be 16. "
            f"{_AGAIN}"
        )
    return Architecture(path, text, vision, {**decoder, "extract_layers": layers})


def read_preprocessing(folder: Path, patch: int) -> Preprocessing:
    """What a folder's preprocessor_config.json says about pictures; the published values without one.

    :param patch: pixels of a patch's side.
    :raises ValueError: a side of no whole patches, or numbers that are none.
    """
    path = folder / PREPROCESSING
    said = read_json(path) if path.is_file() else {}
    for name in ("do_resize", "do_rescale", "do_normalize"):
        if said.get(name, True) is not True:
            raise ValueError(f"{path}: {name} is {said[name]!r:.60}; expected on, as for every CLIPSeg. {_AGAIN}")
    factor = said.get("rescale_factor", 1 / 255)
    if isinstance(factor, bool) or not isinstance(factor, float) or not math.isclose(factor, 1 / 255, rel_tol=1e-3):
        raise ValueError(f"{path}: rescale_factor is {factor!r:.60}; expected 1/255. {_AGAIN}")
    size = said.get("size", _SIDE.default)
    sides = (
        [size] if not isinstance(size, dict) else [size[n] for n in ("height", "width", "shortest_edge") if n in size]
    )
    side, *others = [_checked(_SIDE, each, f"{path}: size") for each in sides or [None]]
    if any(other != side for other in others):
        raise ValueError(f"{path}: size is {size}; expected a square. {_AGAIN}")
    if side % patch:
        raise ValueError(
            f"{path}: pictures of side {side} are no whole number of patches of {patch}, which is "
            f"vision_config.patch_size in {CONFIG}. {_AGAIN}"
        )
    mean = _three(said.get("image_mean", list(_MEANS)), _MEAN, f"{path}: image_mean")
    return Preprocessing(side, mean, _three(said.get("image_std", list(_STDS)), _STD, f"{path}: image_std"))


def _section(config: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    """A part of the configuration; the oldest files have it under another name, which then counts."""
    for called in (f"{name}_dict", name):
        section = config.get(called)
        if isinstance(section, dict):
            return section
        if section is not None:
            raise ValueError(f"{path}: {called} is a {type(section).__name__}; expected an object. {_AGAIN}")
    return {}


def _numbers(section: Mapping[str, Any], known: Mapping[str, Entry], path: Path, prefix: str = "") -> dict[str, Any]:
    return {
        name: _checked(entry, section.get(name, entry.default), f"{path}: {prefix}{name}")
        for name, entry in known.items()
    }


def _checked(entry: Entry, value: Any, called: str) -> Any:
    try:
        return entry.check(value, called)
    except ValueError as error:
        raise ValueError(f"{error} {_AGAIN}") from None


def _three(values: Any, entry: Entry, called: str) -> tuple[float, ...]:
    if not isinstance(values, list) or len(values) != 3:
        raise ValueError(f"{called} is {values!r:.60}; expected three numbers. {_AGAIN}")
    return tuple(_checked(entry, value, called) for value in values)


def _extracted(values: Any, layers: int, path: Path) -> list[int]:
    if not isinstance(values, list) or not 1 <= len(values) <= layers:
        raise ValueError(f"{path}: extract_layers is {values!r:.60}; expected 1 to {layers} layers. {_AGAIN}")
    entry = _whole(0, layers - 1, low=0)
    return [_checked(entry, value, f"{path}: extract_layers") for value in values]
