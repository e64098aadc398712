"""The layout of a safetensors file: where each tensor lies, and what the file says of itself.

The format's own reader maps a file into memory, so that one which is cut off meanwhile, as by a download that starts
anew, ends the process. Here tensors are read as any other bytes are: a file that ends too early is an error. What a
header says is compared with the file before any of it is used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from . import plain_json
from .plain_json import short

#: Bytes of a header. The largest known are 10 MB: hundreds of thousands of names.
LONGEST_HEADER = 32_000_000
#: An object of objects of lists; metadata are texts.
_DEPTH = 3
_MOST_TENSORS = 200_000
_MOST_AXES = 16
_TYPES: dict[str, torch.dtype] = {
    said: getattr(torch, name)
    for said, name in (
        *(("F64", "float64"), ("F32", "float32"), ("F16", "float16"), ("BF16", "bfloat16"), ("C64", "complex64")),
        *(("I64", "int64"), ("I32", "int32"), ("I16", "int16"), ("I8", "int8"), ("U8", "uint8"), ("BOOL", "bool")),
        *(("U64", "uint64"), ("U32", "uint32"), ("U16", "uint16")),
        *(("F8_E4M3", "float8_e4m3fn"), ("F8_E5M2", "float8_e5m2"), ("F8_E8M0", "float8_e8m0fnu")),
        *(("F8_E4M3FNUZ", "float8_e4m3fnuz"), ("F8_E5M2FNUZ", "float8_e5m2fnuz")),
    )
    if hasattr(torch, name)
}


@dataclass(frozen=True)
class Place:
    """Where a tensor lies.

    :param begin: its first byte, counted from the end of the header; ``end``: the one behind its last.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Layout:
    """What a file's header says, as far as it fits the file.

    :param data: where the tensors begin, in bytes from the beginning.
    """

    tensors: Mapping[str, Place]
    metadata: Mapping[str, str]
    data: int

    def read(self, file: BinaryIO, name: str) -> Tensor:
        """A tensor of the file, which is open.

        :raises ValueError: the file ends before it does.
        """
        place = self.tensors[name]
        content = torch.empty(place.end - place.begin, dtype=torch.uint8)
        file.seek(self.data + place.begin)
        if file.readinto(content.numpy()) != len(content):  # type: ignore[attr-defined]  # every file of bytes has it
            raise ValueError(f"it ends in the middle of {short(name)}")
        return content.view(place.dtype).reshape(place.shape)


def read_layout(path: Path) -> Layout:
    """The header of a safetensors file.

    :raises ValueError: it is none, or the file is not what it says. The message is a phrase without the file's name.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or not 2 <= length <= size - 8:
            raise ValueError("it does not start with a safetensors header")
        if length > LONGEST_HEADER:
            raise ValueError(f"its header has {length} bytes, of which {LONGEST_HEADER} are the most that is read")
        content = file.read(length)
    try:
        header = plain_json.parse(content, depth=_DEPTH)
    except ValueError as error:
        raise ValueError(f"it does not start with a safetensors header, which {error}") from error
    if not isinstance(header, dict):
        raise ValueError("it does not start with a safetensors header, which is an object")
    metadata = header.pop("__metadata__", None)
    metadata = {} if metadata is None else metadata  # null is as good as none, as for the format's own reader
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("`__metadata__` of its header holds other things than texts")
    if len(header) > _MOST_TENSORS:
        raise ValueError(f"its header names {len(header)} tensors, of which {_MOST_TENSORS} are the most that is read")
    tensors = {name: _place(name, entry) for name, entry in header.items()}
    _check_places(tensors, size - 8 - length)
    return Layout(tensors, metadata, 8 + length)


def _place(name: str, entry: Any) -> Place:
    """:raises ValueError: an entry of a header that describes no tensor."""
    kind, shape, offsets = (entry.get(key) if isinstance(entry, dict) else None for key in _KEYS)
    called = f"the header's {short(name)}"
    if not isinstance(kind, str) or kind not in _TYPES:
        raise ValueError(f"{called} has the dtype {short(kind)}, expected one of {', '.join(_TYPES)}")
    if not isinstance(shape, list) or len(shape) > _MOST_AXES or not all(map(_is_size, shape)):
        raise ValueError(f"{called} has the shape {short(shape)}, expected up to {_MOST_AXES} sizes")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        raise ValueError(f"{called} has the data_offsets {short(offsets)}, expected its first byte and its end")
    place = Place(_TYPES[kind], tuple(shape), *offsets)
    if math.prod(shape) * place.dtype.itemsize != place.end - place.begin:
        raise ValueError(
            f"{called} takes {place.end - place.begin} bytes, but {kind} of the shape {short(shape)} takes "
            f"{short(math.prod(shape) * place.dtype.itemsize)}"
        )
    return place


_KEYS = ("dtype", "shape", "data_offsets")


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _check_places(tensors: Mapping[str, Place], size: int) -> None:
    """:raises ValueError: tensors that overlap, or that leave or lack bytes of the file."""
    end = 0
    for name, place in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if place.begin != end:
            raise ValueError(f"the header's {short(name)} begins at byte {place.begin}, where {end} was expected")
        end = place.end
    if end != size:
        raise ValueError(f"its tensors take {end} bytes and {size} are there")
