"""Color memories as safetensors files; the header says what made them.

Tensors: ``keys`` (with ``factors`` where they are 8-bit), ``chroma``, ``weight``, ``source``, and of each stroke and
palette its own, ``marks.0.place``, ``palettes.1.mask``. The header, ``exemplar.memory``, is one JSON object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..color.tensors import is_finite
from ..memory.entries import ColorMemory, Made
from ..memory.features import Space
from ..memory.keys import Keys
from ..memory.palette import Palette
from ..memory.strokes import Marks
from .fields import Fields, array, boolean, check_fields, integer, number, optional, string
from .headers import read_metadata, read_object
from .output import whole
from .owned import OwnPlace, Write, write_new
from .plain_json import short
from .tensors import read_tensors

KEY = "exemplar.memory"
#: The form that is written and read.
FORMAT = 1
MAKER = "Exemplar's color memories"
_MOST = 10_000
_FIELDS: Fields = {
    "format": integer(1, 1_000_000),
    "fingerprint": string(),
    "name": string(),
    "context": number(0, 1),
    "spaces": array(string(), 0, 256),
    "levels": array(number(0, 1e6), 0, 256),
    "widths": array(integer(1, 1 << 20), 0, 256),
    "heads": array(integer(1, 4096), 0, 256),
    "fine": array(boolean(), 0, 256),
    "turned": optional(array(boolean(), 0, 256)),
    "sources": array(string(), 0, _MOST),
    "marks": array(integer(0, _MOST), 0, _MOST),
    "palettes": integer(0, _MOST),
}
_ADVICE = "Write the memory again."


def save_memory(path: Path, memory: ColorMemory) -> None:
    """Write the file whole or not at all.

    :raises ValueError: it cannot be written there, or there is a file of another maker.
    :raises OSError: it cannot be written; an older file is as it was.
    """
    OwnPlace(path, KEY, MAKER).write(_writer(memory))


def _writer(memory: ColorMemory) -> Write:
    made = memory.made or Made("", ())
    header = {
        "format": FORMAT,
        "fingerprint": made.fingerprint,
        "name": made.name,
        "context": made.context,
        "spaces": [space.name for space in made.spaces],
        "levels": [space.level for space in made.spaces],
        "widths": [space.width for space in made.spaces],
        "heads": [space.heads for space in made.spaces],
        "fine": [space.fine for space in made.spaces],
        "turned": [space.turned for space in made.spaces],
        "sources": list(memory.sources),
        "marks": [mark.source for mark in memory.marks],
        "palettes": len(memory.palettes),
    }
    tensors = {"chroma": memory.chroma, "weight": memory.weight, "source": memory.source.int()}
    if memory.keys is not None:
        tensors["keys"] = memory.keys.data
        if memory.keys.factors is not None:
            tensors["factors"] = memory.keys.factors
    for i, mark in enumerate(memory.marks):
        parts = {"chroma": mark.chroma, "place": mark.place, "lightness": mark.lightness}
        tensors |= {f"marks.{i}.{name}": tensor for name, tensor in parts.items()}
    for i, palette in enumerate(memory.palettes):
        parts = {"chroma": palette.chroma, "lightness": palette.lightness, "mask": palette.mask}
        tensors |= {f"palettes.{i}.{name}": tensor for name, tensor in parts.items() if tensor is not None}
    # copies: a view would be written with all that it is a view of, and safetensors refuses shared memory
    own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}

    def write(place: Path, new: bool) -> None:
        with whole(place, new=new) as beside:
            save_file(own, beside, metadata={"format": "pt", KEY: json.dumps(header)})

    return write


def save_new_memory(folder: Path, stem: str, number: int, memory: ColorMemory) -> Path:
    """Write a file under the first free number, ``stem_00001_.safetensors``; nothing is replaced.

    :returns: where it is.
    :raises OSError: it cannot be written.
    """
    return write_new(folder, stem, number, _writer(memory))


def load_memory(path: Path, made: Made | None = None) -> ColorMemory:
    """A memory from its file.

    :param made: what is to ask it; None does not look.
    :raises FileNotFoundError: there is no such file.
    :raises ValueError: the file is no color memory, is damaged, or is of another model or other layers.
    """
    if KEY not in read_metadata(path):
        raise ValueError(f"{path} is no color memory: give a file that Save Memory or --save-memory wrote.")
    called = f"{path}: `{KEY}`"
    header = check_fields(read_object(path, KEY), _FIELDS, called, _ADVICE)
    if header["format"] != FORMAT:
        raise ValueError(
            f"{path} is a color memory of form {header['format']}, this version reads {FORMAT}: update the pack."
        )
    columns = [header[name] for name in ("spaces", "levels", "widths", "heads", "fine")]
    columns.append(header.get("turned") or [False] * len(columns[0]))  # files of 0.2.0 before transformers had none
    if len({len(column) for column in columns}) > 1:
        raise ValueError(f"{called}: found lists of several lengths for its spaces. {_ADVICE}")
    spaces = tuple(Space(*values) for values in zip(*columns, strict=True))
    own = Made(header["fingerprint"], spaces, float(header["context"]), header["name"]) if spaces else None
    if made is not None and own is not None:
        own.check(made, str(path))
    try:
        return _assembled(header, own, read_tensors(path))
    except (ValueError, LookupError) as error:
        said = str(error) if isinstance(error, ValueError) else f"found no tensor {short(str(error.args[0]))}."
        raise ValueError(f"{path}: {said.removeprefix(f'{path}: ')} {_ADVICE}") from error


def _assembled(header: Mapping[str, Any], made: Made | None, tensors: Mapping[str, Tensor]) -> ColorMemory:
    """:raises ValueError: tensors that do not fit; :raises LookupError: one is missing."""
    keys = None
    if made is not None:
        data = tensors["keys"]
        keys = Keys(data, made.widths, tensors["factors"] if data.dtype == torch.int8 else None)
        _check(keys)
    chroma, weight, source = tensors["chroma"].float(), tensors["weight"].float(), tensors["source"].long()
    sources = header["sources"]
    if source.ndim != 1 or (len(source) and not 0 <= int(source.min()) <= int(source.max()) < len(sources)):
        raise ValueError(f"found entries of sources beyond the {len(sources)} that are named.")
    if any(number >= len(sources) for number in header["marks"]):
        raise ValueError(f"found strokes of sources beyond the {len(sources)} that are named.")
    marks = tuple(
        Marks(
            tensors[f"marks.{i}.chroma"].float(),
            tensors[f"marks.{i}.place"].bool(),
            tensors[f"marks.{i}.lightness"].float(),
            number,
        )
        for i, number in enumerate(header["marks"])
    )
    palettes = tuple(
        Palette(
            tensors[f"palettes.{i}.chroma"],
            tensors.get(f"palettes.{i}.lightness"),
            tensors.get(f"palettes.{i}.mask"),
        )
        for i in range(header["palettes"])
    )
    floats = [tensor for name, tensor in tensors.items() if name != "keys" and tensor.is_floating_point()]
    if not is_finite(*floats):
        raise ValueError("found NaN, infinite or huge values, expected finite ones.")
    return ColorMemory(made, keys, chroma, weight, source, sources, marks, palettes)


def _check(keys: Keys) -> None:
    data, factors = keys.data, keys.factors
    kinds = (torch.float32, torch.float16, torch.int8)
    if data.ndim != 2 or data.shape[1] != sum(keys.widths) or data.dtype not in kinds:
        raise ValueError(
            f"found keys {data.dtype} of shape {tuple(data.shape)}, expected {sum(keys.widths)} channels of float32, "
            "float16 or int8."
        )
    if factors is not None and tuple(factors.shape) != (len(data), len(keys.widths)):
        raise ValueError(f"found factors {tuple(factors.shape)}, expected {(len(data), len(keys.widths))}.")
    if data.dtype != torch.int8 and not is_finite(data):
        raise ValueError("found NaN, infinite or huge values in its keys, expected finite ones.")
