"""Inversions as safetensors files; the header says what made them.

One file holds one inversion, or several of one model: a reference beside the same without color, and references of
other sizes. The header, ``exemplar.inversion``, is one JSON object. Tensors are named by the inversion's number:
``0.trajectory``, and what was kept, by the level's number, layer and projection: ``0.kept.2.output.8.k``. Each keeps
the precision that it has, so what is read is what was written, bit for bit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from safetensors.torch import save_file
from torch import Tensor

from ..attention.bank import PROJECTIONS, FeatureBank
from ..attention.layers import BLOCKS, Layer, LayerInfo
from ..attention.rows import compact
from ..diffusion.inversion import Inversion
from ..diffusion.schedule import Convention, InversionPlan
from .fields import Fields, array, boolean, check_fields, integer, number, optional, string
from .headers import read_metadata, read_object
from .output import whole
from .owned import OwnPlace, Write, write_new
from .plain_json import short
from .tensors import read_tensors

KEY = "exemplar.inversion"
#: The form that is written and read.
FORMAT = 1
MAKER = "Exemplar's inversions"
_ADVICE = "Invert the picture again."
_MOST_LAYERS, _MOST_LEVELS = 1024, 1001
_LAYERS = array(string(), 0, _MOST_LAYERS)
_LEVELS = array(number(0, 1e8), 1, _MOST_LEVELS)
_SIDE = integer(1, 1 << 20)
#: What a file says of the model, and how many inversions there are.
_MODEL: Fields = {
    "format": integer(1, 1_000_000),
    "fingerprint": string(),
    "layers": _LAYERS,
    "channels": array(integer(1, 1 << 20), 0, _MOST_LAYERS),
    "heads": array(integer(1, 4096), 0, _MOST_LAYERS),
    "downscales": array(integer(1, 4096), 0, _MOST_LAYERS),
    "gray": integer(0, 4096),
}
#: What it says of each inversion. ``kept``, ``letters``, ``heights`` and ``widths`` are by layer, ``kept_at`` by level.
_INVERSION: Fields = {
    "convention": string(*get_args(Convention)),
    "steps": integer(1, 100_000),
    "depth": integer(1, 100_000),
    "levels": _LEVELS,
    "reads": _LEVELS,
    "sigmas": _LEVELS,
    "flow": optional(boolean()),
    "chroma": optional(number(0, 1e8), null=True),
    "kept_at": array(number(0, 1e8), 0, _MOST_LEVELS),
    "kept": _LAYERS,
    "letters": _LAYERS,
    "heights": array(_SIDE, 0, _MOST_LAYERS),
    "widths": array(_SIDE, 0, _MOST_LAYERS),
}
_NAME = re.compile(rf"({'|'.join(BLOCKS)})\.(\d{{1,4}})(?:\.(\d{{1,4}}))?")


@dataclass(frozen=True)
class Inversions:
    """What one file holds.

    :param color: pictures, inverted; several where they have several sizes.
    :param gray: the same pictures without color, one for each; () where only pictures were saved.
    :raises ValueError: nothing, another number of gray ones, or inversions of several models.
    """

    color: tuple[Inversion, ...]
    gray: tuple[Inversion, ...] = ()

    def __post_init__(self) -> None:
        if not self.color or len(self.gray) not in (0, len(self.color)):
            raise ValueError(
                f"found {len(self.color)} inversion(s) and {len(self.gray)} without color, expected at least one, and "
                "none or as many without color."
            )
        first = self.color[0]
        for other in self.all:
            if (other.model, other.layers) != (first.model, first.layers):
                raise ValueError(
                    f"gray_inversion: found one of another model ({other.model}), expected one of the same as the "
                    f"inversion beside it ({first.model}); invert both with one model."
                )

    @property
    def all(self) -> tuple[Inversion, ...]:
        """Everything, the gray ones last."""
        return (*self.color, *self.gray)

    @property
    def nbytes(self) -> int:
        """Bytes of all numbers."""
        return sum(each.trajectory.nbytes + each.bank.nbytes for each in self.all)


def save_inversions(path: Path, inversions: Inversions) -> None:
    """Write the file whole or not at all.

    :raises ValueError: it cannot be written there, or there is a file of another maker.
    :raises OSError: it cannot be written; an older file is as it was.
    """
    OwnPlace(path, KEY, MAKER).write(_writer(inversions))


def save_new_inversions(folder: Path, stem: str, number: int, inversions: Inversions) -> Path:
    """Write a file under the first free number, ``stem_00001_.safetensors``; nothing is replaced.

    :returns: where it is.
    :raises OSError: it cannot be written.
    """
    return write_new(folder, stem, number, _writer(inversions))


def _writer(inversions: Inversions) -> Write:
    infos = inversions.color[0].layers
    header = {
        "format": FORMAT,
        "fingerprint": inversions.color[0].model,
        "layers": [info.layer.name for info in infos],
        "channels": [info.channels for info in infos],
        "heads": [info.heads for info in infos],
        "downscales": [info.downscale for info in infos],
        "gray": len(inversions.gray),
        "inversions": [_described(inversion) for inversion in inversions.all],
    }
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in _named(inversions):
        own = compact(tensor.detach().cpu().contiguous())
        # safetensors refuses memory that two names share
        tensors[name] = own.clone() if own.data_ptr() in seen else own
        seen.add(own.data_ptr())

    def write(place: Path, new: bool) -> None:
        with whole(place, new=new) as beside:
            save_file(tensors, beside, metadata={"format": "pt", KEY: json.dumps(header)})

    return write


def _described(inversion: Inversion) -> dict[str, Any]:
    """What the header says of one inversion."""
    plan, bank, kept = inversion.plan, inversion.bank, _kept(inversion.bank)
    return {
        "convention": plan.convention,
        "steps": plan.steps,
        "depth": plan.depth,
        "levels": plan.levels,
        "reads": plan.reads,
        "sigmas": plan.sigmas,
        "flow": plan.flow,
        "chroma": inversion.chroma,
        "kept_at": bank.levels,
        "kept": [layer.name for layer in kept],
        "letters": list(kept.values()),
        "heights": [bank.grid(layer)[0] for layer in kept],
        "widths": [bank.grid(layer)[1] for layer in kept],
    }


def _kept(bank: FeatureBank) -> dict[Layer, str]:
    """Projections of the layers, in the order in which they were kept."""
    found: dict[Layer, str] = {}
    for _, layer, letter, _ in bank.items():
        known = found.get(layer, "")
        found[layer] = known if letter in known else known + letter
    return found


def _named(inversions: Inversions) -> Iterator[tuple[str, Tensor]]:
    for i, inversion in enumerate(inversions.all):
        yield f"{i}.trajectory", inversion.trajectory
        at = {sigma: level for level, sigma in enumerate(inversion.bank.levels)}
        for sigma, layer, letter, tensor in inversion.bank.items():
            yield _kept_name(i, at[sigma], layer, letter), tensor


def _kept_name(inversion: int, level: int, layer: Layer, letter: str) -> str:
    return f"{inversion}.kept.{level}.{layer.name}.{letter}"


def load_inversions(path: Path) -> Inversions:
    """What a file holds, on the CPU; every value is one that it can be.

    :raises FileNotFoundError: there is no such file.
    :raises ValueError: the file holds no inversions, is of another form, or is damaged.
    """
    if KEY not in read_metadata(path):
        raise ValueError(f"{path} holds no inversion: give a file that Save Inversion or --save-inversion wrote.")
    called = f"{path}: `{KEY}`"
    header = read_object(path, KEY)
    model = check_fields(header, _MODEL, called, _ADVICE)
    if model["format"] != FORMAT:
        raise ValueError(
            f"{path} is an inversion of form {model['format']}, this version reads {FORMAT}: update the pack."
        )
    said = header.get("inversions")
    if not isinstance(said, list) or not 1 <= len(said) <= 2 * _MOST_LAYERS:
        raise ValueError(f"{called}: found no list of inversions. {_ADVICE}")
    each = [check_fields(one, _INVERSION, f"{called}: inversions[{i}]", _ADVICE) for i, one in enumerate(said)]
    try:
        infos = _infos(model)
        tensors = read_tensors(path)
        made = tuple(_assembled(i, one, model["fingerprint"], infos, tensors) for i, one in enumerate(each))
        if tensors:
            raise ValueError(f"found the tensor {short(min(tensors))}, which belongs to no inversion.")
        count = max(0, len(made) - model["gray"])  # a negative one would count from the end
        return Inversions(made[:count], made[count:])
    except (ValueError, LookupError) as error:
        why = str(error) if isinstance(error, ValueError) else f"found no tensor {short(str(error.args[0]))}."
        advice = "" if "invert the picture again" in why else f" {_ADVICE}"
        raise ValueError(f"{path}: {why.removeprefix(f'{path}: ')}{advice}") from error


def _infos(model: Mapping[str, Any]) -> tuple[LayerInfo, ...]:
    """:raises ValueError: lists of several lengths, names that are none, or heads that split no channels."""
    columns = [model[name] for name in ("layers", "channels", "heads", "downscales")]
    _check_lengths("layers", columns)
    infos = tuple(LayerInfo(_layer(name), *numbers) for name, *numbers in zip(*columns, strict=True))
    for info in infos:
        if info.channels % info.heads:
            raise ValueError(f"found {info.channels} channels of {info.layer.name} for {info.heads} heads.")
    _check_once([info.layer for info in infos])
    return infos


def _assembled(
    i: int, said: Mapping[str, Any], fingerprint: str, infos: tuple[LayerInfo, ...], tensors: dict[str, Tensor]
) -> Inversion:
    """One inversion, whose tensors are taken out of a file's.

    :raises ValueError: something does not fit; :raises LookupError: a tensor is missing.
    """
    plan = InversionPlan(
        *(said[name] for name in ("convention", "steps", "depth", "levels", "reads", "sigmas")),
        flow=said.get("flow", False),
    )
    if len(plan.reads) != len(plan.levels) - 1 or len(plan.sigmas) != plan.depth + 1:
        raise ValueError(
            f"found {len(plan.levels)} levels, {len(plan.reads)} reads and {len(plan.sigmas)} sigmas of inversion {i}, "
            f"which do not go together at depth {plan.depth}."
        )
    columns = [said[name] for name in ("kept", "letters", "heights", "widths")]
    _check_lengths("kept", columns)
    known = {info.layer for info in infos}
    rows = [(_layer(name), letters, (height, width)) for name, letters, height, width in zip(*columns, strict=True)]
    _check_once([layer for layer, *_ in rows])
    for layer, letters, _ in rows:
        if layer not in known or not letters or len(set(letters)) < len(letters) or set(letters) - set(PROJECTIONS):
            raise ValueError(f"found {short(letters)} kept of {layer.name}, expected letters of q, k, v of a layer.")
    trajectory, bank = tensors.pop(f"{i}.trajectory"), FeatureBank()
    for level, sigma in enumerate(said["kept_at"]):
        for layer, letters, grid in rows:
            kept = {letter: tensors.pop(_kept_name(i, level, layer, letter)) for letter in letters}
            bank.put(sigma, layer, grid, **kept)
    made = Inversion(plan, trajectory, bank, fingerprint, infos, said.get("chroma"))
    made.check(f"inversion {i}")
    return made


def _layer(name: str) -> Layer:
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"found the layer {short(name)}, expected a name such as output.8.")
    return Layer(match[1], int(match[2]), int(match[3] or 0))


def _check_lengths(name: str, columns: list[Any]) -> None:
    if len({len(column) for column in columns}) > 1:
        raise ValueError(f"found lists of several lengths for its {name}.")


def _check_once(layers: list[Layer]) -> None:
    if len(set(layers)) < len(layers):
        raise ValueError("found a layer that is named twice.")
