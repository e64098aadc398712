"""The sizes of networks that transformers makes, read from a configuration's numbers and from nothing else of it.

A configuration of transformers may also name classes, other repositories, attention kernels, adapters and ways to
quantize, all of which its library would follow. Here a new configuration is made of numbers, each within bounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...files.fields import Fields, check_fields, integer, number, string
from ...files.plain_json import AGAIN, read_json

ACTIVATIONS = string("quick_gelu", "gelu", "gelu_new", "relu", "silu")
EPSILON = number(1e-12, 1e-2)

#: CLIP's text encoder by transformers' names. Below transformers' own values, which its version 4 does not write down.
TEXT: Fields = {
    "vocab_size": integer(1, 1_000_000),
    "hidden_size": integer(1, 8192),
    "intermediate_size": integer(1, 65536),
    "num_hidden_layers": integer(1, 128),
    "num_attention_heads": integer(1, 256),
    "max_position_embeddings": integer(3, 4096),
    "hidden_act": ACTIVATIONS,
    "layer_norm_eps": EPSILON,
}
TEXT_DEFAULTS = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}


def sizes(section: Mapping[str, Any], fields: Fields, defaults: Mapping[str, Any], called: str) -> dict[str, Any]:
    """What is described of a configuration, a missing value by its default.

    :param called: file and place in it.
    :raises ValueError: a value that no such network has; file and name are told.
    """
    return check_fields({**defaults, **section}, fields, called, AGAIN)


def check_heads(width: int, heads: int, called: str) -> None:
    """:raises ValueError: a width that heads do not divide."""
    if width % heads:
        raise ValueError(f"{called} is {heads}; expected a divisor of the width {width}. {AGAIN}")


def text_configuration(path: Path) -> Any:
    """A CLIPTextConfig with the sizes that a config.json says.

    :raises ValueError: sizes that no such network has.
    """
    from transformers import CLIPTextConfig

    fields = {**TEXT, "projection_dim": integer(1, 8192)}
    found = sizes(read_json(path), fields, {**TEXT_DEFAULTS, "projection_dim": 512}, str(path))
    check_heads(found["hidden_size"], found["num_attention_heads"], f"{path}: num_attention_heads")
    return CLIPTextConfig(**found)
