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
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..diffusion.concept import ConceptState
from .output import whole
from .pickles import StandIn, module_tensors
from .tensors import is_safetensors_inside, read_pickle, read_tensors, unreadable

log = logging.getLogger(__name__)

SINGLE = "emb_params"
HEADER = "exemplar"
#: Bytes of a name: file systems take 255 with the ending, and what is written first has a longer one.
_LONGEST = 200
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
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(HEADER)
            # copies: no part of a file that may change
            held = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(unreadable(path, error)) from error
    if header is None:
        return None
    try:
        return _recorded(json.loads(header), held)
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{path} is a concept whose header does not fit its {len(held)} tensors ({error}): learn it anew."
        ) from error


def _recorded(recorded: dict[str, Any], held: dict[str, Tensor]) -> ConceptFile:
    """A concept from its header and its vectors.

    :raises ValueError: they do not fit, as :class:`LookupError` or :class:`TypeError` may say, too.
    """
    encoders = tuple(recorded["encoders"])
    names = tensor_names(encoders)
    if sorted(held) != sorted(names):
        raise ValueError(f"it holds {sorted(held)}, the header says {sorted(names)}")
    vectors = tuple(held[name] for name in names)
    moments = {
        key: tuple(_unpacked(text, v) for text, v in zip(recorded[key], vectors, strict=True))
        for key in ("first", "second")
    }
    state = ConceptState(vectors, **moments, updates=recorded["updates"])
    return ConceptFile(encoders, state, recorded["settings"], recorded["losses"])


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
        named = next((fitting[called] for called in (name, f"clip_{encoder}") if called in fitting), None)
        if named is None and not fitting:
            has = ", ".join(f"{called} {tuple(tensor.shape)}" for called, tensor in held.items()) or "none"
            raise ValueError(
                f"{path} has the vectors {has}; an embedding of this model has one tensor "
                f"{' and '.join(map(str, widths))} wide: choose one that was made for it."
            )
        if named is None and len(fitting) > 1:
            log.warning("%s has the embeddings %s; %s is used.", path, ", ".join(fitting), next(iter(fitting)))
        chosen = next(iter(fitting.values())) if named is None else named
        vectors.append(chosen.reshape(-1, width).float())
    if not all(bool(torch.isfinite(group).all()) for group in vectors):
        raise ValueError(f"{path} has vectors with NaN or infinite values: learn it anew, or get another one.")
    return tuple(vectors)


def _held(path: Path) -> dict[str, Tensor]:
    """All tensors of an embedding file that could be vectors, as copies, under the names that they have there.

    :raises ValueError: they are a network's.
    """
    if is_safetensors_inside(path):
        found = read_tensors(path)
    else:
        found = {name: tensor.detach().clone() for name, tensor in _vectors_in(read_pickle(path)).items()}
    layers = sum(name.endswith((".weight", ".bias", ".alpha")) for name in found)
    if layers > 1:
        raise ValueError(
            f"{path} is no embedding: it holds {layers} weights of a network's layers, as a checkpoint or a LoRA does. "
            "Choose a file with learned vectors."
        )
    return {name: tensor for name, tensor in found.items() if tensor.ndim and tensor.numel()}


def _vectors_in(loaded: Any) -> dict[str, Tensor]:
    """Named tensors of what a pickled embedding holds. A ``ParameterDict`` is a network that was pickled whole."""
    if isinstance(loaded, Tensor):
        return {SINGLE: loaded}
    if isinstance(loaded, StandIn):
        return module_tensors(loaded)
    if isinstance(loaded, (list, tuple)):
        return {name: tensor for entry in loaded for name, tensor in _vectors_in(entry).items()}
    if not isinstance(loaded, Mapping):
        return {}
    if "string_to_param" in loaded:
        first = next(iter(_vectors_in(loaded["string_to_param"]).values()), None)
        return {} if first is None else {SINGLE: first}
    return {str(name): tensor for name, tensor in loaded.items() if isinstance(tensor, Tensor)}


def _packed(tensor: Tensor) -> str:
    return base64.b64encode(tensor.float().contiguous().cpu().numpy().tobytes()).decode("ascii")


def _unpacked(text: str, like: Tensor) -> Tensor:
    values = np.frombuffer(base64.b64decode(text), dtype=np.float32).copy()
    return torch.from_numpy(values).reshape(like.shape)
