"""Learned word vectors as the files that other programs read, with what it takes to go on learning in the header.

One tensor named ``emb_params`` for a single text encoder, ``clip_l`` and ``clip_g`` for SDXL: the names that ComfyUI,
the web UIs and diffusers know. More tensors would keep some of them from reading the file, so the optimizer's moments
stand in the safetensors header, which they pass over.

Files of other programs are read in whatever form they have: the web UI's pickles (``string_to_param``), diffusers'
(``{"<token>": vector}``), SDXL's pairs, a tensor alone.
"""

from __future__ import annotations

import base64
import json
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from ..diffusion.concept import ConceptState
from . import plain_json
from .fields import array, check_fields, integer, number, string
from .ldm import listed
from .numbers import check_numbers
from .output import is_device, whole
from .plain_json import short
from .tensors import layout_of, read_tensors

log = logging.getLogger(__name__)

SINGLE = "emb_params"
HEADER = "exemplar"
#: Bytes of a name: file systems take 255 with the ending, and what is written first has a longer one.
_LONGEST = 200
#: What a concept's header says, beside the settings that it was learned with.
_RECORDED = {
    "encoders": array(string(), 1, 3),
    "updates": integer(0, 100_000_000),
    "losses": array(number(0, 1e30), 0, 10_000_000),
    "first": array(string(), 1, 3),
    "second": array(string(), 1, 3),
}
#: What a prompt can name after ``embedding:``.
NAME = re.compile(r"\w([\w.-]*\w)?")


@dataclass(frozen=True)
class ConceptFile:
    """A concept on disk.

    :param encoders: names of the text encoders, in the order of the state's vectors: ("l",), ("g", "l"), ...
    :param settings: what was learned and how, to be compared before learning goes on.
    :param losses: of every update so far.
    """

    encoders: tuple[str, ...]
    state: ConceptState
    settings: dict[str, Any]
    losses: list[float] = field(default_factory=list)


def check_name(name: str) -> None:
    """Whether a name is one that a prompt can hold.

    :raises ValueError: it is not.
    """
    if not NAME.fullmatch(name) or len(name.encode()) > _LONGEST:
        raise ValueError(
            f"'{name}' cannot be the name of an embedding: use letters, digits, '-', '_' and '.', without spaces, "
            "folders and ending, so that a prompt can say embedding:name."
        )
    if is_device(name):
        raise ValueError(f"'{name}' cannot be the name of an embedding: on Windows it is a device; use another one.")


def embedding_path(folder: str | Path, name: str) -> Path:
    """The file of an embedding.

    :raises ValueError: see :func:`check_name`.
    """
    check_name(name)
    return Path(folder) / f"{name}.safetensors"


def tensor_names(encoders: tuple[str, ...]) -> tuple[str, ...]:
    """The tensors' names in a file, for the names of text encoders."""
    return (SINGLE,) if len(encoders) == 1 else tuple(f"clip_{name}" for name in encoders)


def save_concept(path: Path, concept: ConceptFile, *, new: bool = False) -> None:
    """Write the file whole or not at all.

    :param new: never replace a file.
    :raises FileExistsError: with ``new``, there is one.
    :raises OSError: it cannot be written; an older file is as it was.
    """
    names = tensor_names(concept.encoders)
    state = concept.state
    header = {
        "encoders": list(concept.encoders),
        "updates": state.updates,
        "settings": concept.settings,
        "losses": [round(loss, 6) for loss in concept.losses],
        "first": [_packed(m) for m in state.first],
        "second": [_packed(m) for m in state.second],
    }
    vectors = {name: v.float().contiguous() for name, v in zip(names, state.vectors, strict=True)}
    with whole(path, new=new) as beside:
        save_file(vectors, beside, metadata={HEADER: json.dumps(header)})


def read_concept(path: Path) -> ConceptFile | None:
    """What :func:`save_concept` wrote; None where the file is another program's.

    :raises ValueError: the file is damaged, or its header does not fit the tensors.
    """
    header = layout_of(path).metadata.get(HEADER)
    if header is None:
        return None
    held = read_tensors(path)
    called, advice = f"{path}: {short(HEADER)} in the header", "Learn it anew."
    try:
        recorded = plain_json.parse(header)
    except ValueError as error:
        raise ValueError(f"{called} {error}. {advice}") from error
    fields = check_fields(recorded, _RECORDED, called, advice)
    fields["settings"] = _settings(recorded.get("settings"), f"{called}: settings", advice)
    try:
        return _concept(fields, held)
    except ValueError as error:
        raise ValueError(f"{path} is a concept whose header does not fit its tensors ({error}). {advice}") from error


def _settings(recorded: Any, called: str, advice: str) -> dict[str, Any]:
    """What was learned and how: texts and numbers by their names."""
    plain = isinstance(recorded, dict) and all(
        isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value))
        for value in recorded.values()
    )
    if not plain:
        raise ValueError(f"{called} holds other things than names with texts and numbers. {advice}")
    return recorded


def _concept(fields: dict[str, Any], held: dict[str, Tensor]) -> ConceptFile:
    """A concept from its header and its vectors.

    :raises ValueError: they do not fit.
    """
    encoders = fields["encoders"]
    names = tensor_names(encoders)
    if sorted(held) != sorted(names):
        raise ValueError(f"it holds {listed(held)}, the header says {listed(names)}")
    check_numbers(held)
    for name, vectors in held.items():
        if vectors.ndim != 2 or not vectors.numel():
            raise ValueError(f"{short(name)} has the shape {tuple(vectors.shape)}, expected (vectors, width)")
    vectors = tuple(held[name].float() for name in names)
    moments = {}
    for key in ("first", "second"):
        if len(fields[key]) != len(names):
            raise ValueError(f"{key} holds {len(fields[key])} texts, expected {len(names)}")
        moments[key] = tuple(_unpacked(key, text, v) for text, v in zip(fields[key], vectors, strict=True))
    if any(bool((moment < 0).any()) for moment in moments["second"]):
        raise ValueError("second holds negative numbers, and squares are expected")
    state = ConceptState(vectors, **moments, updates=fields["updates"])
    return ConceptFile(encoders, state, fields["settings"], list(fields["losses"]))


def read_vectors(path: Path, encoders: Sequence[str], widths: Sequence[int]) -> tuple[Tensor, ...]:
    """For each text encoder (n, width), float32: the vectors of an embedding file, by their usual names, else by width.

    :param encoders: the encoders' names; ``widths`` how wide a vector of each is.
    :raises ValueError: the file cannot be read, or has no vectors for one of the encoders.
    """
    held = _held(path)
    names = tensor_names(tuple(encoders))
    vectors = []
    for encoder, name, width in zip(encoders, names, widths, strict=True):
        fitting = {called: tensor for called, tensor in held.items() if tensor.shape[-1] == width}
        named = next(((called, fitting[called]) for called in (name, f"clip_{encoder}") if called in fitting), None)
        if named is None and not fitting:
            has = ", ".join(f"{called} {tuple(tensor.shape)}" for called, tensor in held.items()) or "none"
            raise ValueError(
                f"{path} has the vectors {has}; an embedding of this model has one tensor "
                f"{' and '.join(map(str, widths))} wide: choose one that was made for it."
            )
        if named is None and len(fitting) > 1:
            log.warning("%s has the embeddings %s; %s is used.", path, ", ".join(fitting), next(iter(fitting)))
        called, chosen = next(iter(fitting.items())) if named is None else named
        check_numbers({called: chosen}, called=str(path))
        vectors.append(chosen.reshape(-1, width).float())
    return tuple(vectors)


def _held(path: Path) -> dict[str, Tensor]:
    """All tensors of an embedding file that could be vectors, under the names that they have there.

    :raises ValueError: they are a network's.
    """
    found = read_tensors(path)
    layers = sum(name.endswith((".weight", ".bias", ".alpha")) for name in found)
    if layers > 1:
        raise ValueError(
            f"{path} is no embedding: it holds {layers} weights of a network's layers, as a checkpoint or a LoRA does. "
            "Choose a file with learned vectors."
        )
    of_web_ui = next((name for name in found if name.startswith("string_to_param.")), None)
    if of_web_ui is not None:  # it reads the first alone
        found = {of_web_ui: found[of_web_ui]}
    return {name: tensor for name, tensor in found.items() if tensor.ndim and tensor.numel()}


def _packed(tensor: Tensor) -> str:
    return base64.b64encode(tensor.float().contiguous().cpu().numpy().tobytes()).decode("ascii")


def _unpacked(key: str, text: str, like: Tensor) -> Tensor:
    """:raises ValueError: what is packed has another size, or is no finite numbers."""
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"{key} holds other letters than base64 has") from error
    if len(content) != 4 * like.numel():
        raise ValueError(f"{key} holds {len(content)} bytes where {4 * like.numel()} were expected")
    values = torch.from_numpy(np.frombuffer(content, dtype=np.float32).copy()).reshape(like.shape)
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"{key} has NaN or infinite values")
    return values
