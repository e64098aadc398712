"""Weights that are stored in fewer bits than they are worth: eight-bit floats are read, other ways are named.

An eight-bit float has its value in float16 exactly. *Scaled* ones come with a number, or one for each row, that they
are multiplied by. Integers and four-bit floats need the program that packed them, and are refused with its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from . import plain_json
from .plain_json import short

_EIGHT_BITS = tuple(
    getattr(torch, name)
    for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
    if hasattr(torch, name)
)
#: What stands beside a weight ``x.weight`` and belongs to it; the first two are what it is multiplied by.
_SCALES = ("scale_weight", "weight_scale")
_BESIDE = re.compile(r"\.(scale_weight|weight_scale|scale_input|input_scale|comfy_quant|SCB|weight_format)$")
#: What stands below it.
_BELOW = re.compile(
    r"(?<=\.weight)\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\..*|_data|_scale|_qdata)$"
)
#: A tensor without content that says that eight-bit floats in the file are scaled.
_MARK = re.compile(r"(^|\.)scaled_fp8$")
#: Whose way of packing a name tells.
_PACKED = (
    ("nf4 (bitsandbytes)", re.compile(r"\.quant_state\.bitsandbytes__nf4$")),
    ("fp4 (bitsandbytes)", re.compile(r"\.quant_state\.bitsandbytes__fp4$")),
    ("four bits (bitsandbytes)", re.compile(r"\.weight\.(absmax|quant_map)$")),
    ("int8 (bitsandbytes)", re.compile(r"\.SCB$")),
    ("four bits (SVDQuant)", re.compile(r"\.(wscales|wcscales|smooth_factor)$")),
    ("integers (GPTQ or AWQ)", re.compile(r"\.(qweight|qzeros)$")),
    ("integers (quanto)", re.compile(r"\.weight\._(data|scale)$")),
    ("integers (torchao)", re.compile(r"\.weight\._qdata$")),
)
#: Bytes of a description of one weight's packing.
_LONGEST_FORMAT = 10_000
_ADVICE = "this program reads float32, float16, bfloat16 and fp8: get the weights in one of these"


def owner(name: str) -> str:
    """The weight that a tensor belongs to, by its name: what scales or describes another one is part of it."""
    return _BELOW.sub("", _BESIDE.sub(".weight", name))


def check_packing(names: Iterable[str]) -> None:
    """Whether weights are stored in a way that can be read, as far as names tell.

    :raises ValueError: they are not; the message says in which one.
    """
    names = list(names)
    for what, pattern in _PACKED:
        packed = next(filter(pattern.search, names), None)
        if packed is not None:
            raise ValueError(f"the weights are quantized to {what}, as {short(packed)} tells; {_ADVICE}.")


def unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file in precisions that everything computes with; eight-bit floats as float16, scaled.

    :raises ValueError: weights that are quantized in another way, which is named.
    """
    check_packing(tensors)
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if _MARK.search(name) or (owner(name) != name and owner(name) in tensors):
            continue
        stem = name.removesuffix(".weight")
        if f"{stem}.comfy_quant" in tensors:
            _check_format(f"{stem}.comfy_quant", tensors[f"{stem}.comfy_quant"])
        scale = next((tensors[f"{stem}.{kind}"] for kind in _SCALES if f"{stem}.{kind}" in tensors), None)
        plain[name] = _value(name, tensor, scale)
    return plain


def _check_format(name: str, described: Tensor) -> None:
    """:raises ValueError: a format other than eight-bit floats is described, in JSON."""
    form: Any = None
    if described.dtype == torch.uint8 and described.numel() <= _LONGEST_FORMAT:
        with suppress(ValueError):
            form = plain_json.parse(bytes(described.flatten().tolist()))
    kind = str(form.get("format", "")) if isinstance(form, dict) else "an unknown format"
    if not kind.startswith("float8"):
        raise ValueError(f"the weights are quantized to {kind:.60}, as {short(name)} tells; {_ADVICE}.")


def _value(name: str, tensor: Tensor, scale: Tensor | None) -> Tensor:
    if tensor.dtype in _EIGHT_BITS:
        if scale is None:
            return tensor.to(torch.float16)  # exact: all their values are float16's, too
        if not scale.is_floating_point() or not tensor.ndim or scale.numel() not in (1, tensor.shape[0]):
            raise ValueError(
                f"{short(name)} has the shape {tuple(tensor.shape)} and a scale of {scale.dtype} with "
                f"{scale.numel()} numbers, expected one, or one for each row: get the file again."
            )
        # a scale for each row stands before all other axes
        value = tensor.float() * scale.float().reshape(scale.numel(), *[1] * (tensor.ndim - 1))
        half = value.half()
        return half if bool(torch.isfinite(half).all()) else value
    packed = tensor.dtype in (torch.int8, torch.uint8) and tensor.ndim > 1 and name.endswith("weight")
    if packed or str(tensor.dtype).startswith(("torch.float4", "torch.float8")):
        packing = str(tensor.dtype).removeprefix("torch.")
        raise ValueError(f"the weights are quantized to {packing}, as {short(name)} is; {_ADVICE}.")
    return tensor
