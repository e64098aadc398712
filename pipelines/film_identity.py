"""What a film's result depends on: what goes on after an interruption must have all of it alike."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..memory.entries import ColorMemory
from ..memory.features import FeatureSource
from ..settings import entries, value_of
from .doctor.machine import pack_version
from .film_memory import KeyFrame
from .film_settings import FilmSettings

#: Bytes at both ends of a film by which it is known again.
_ENDS = 2**20


def identity(
    film: str,
    network: FeatureSource,
    settings: FilmSettings,
    memory: ColorMemory | None,
    keys: Sequence[KeyFrame],
) -> dict[str, str]:
    """All of it, by what a message calls it.

    :param film: what identifies the input, such as :func:`file_identity`.
    """
    values = {name: value_of(settings, entry) for name, entry in entries(type(settings)).items()}
    return {
        "input": film,
        "model": network.fingerprint,
        "torch": torch.__version__,  # of another version the last bits may differ, and of another pack's all of them
        "exemplar": pack_version(),
        "settings": json.dumps(values, sort_keys=True),
        "references": "none" if memory is None else digest(_tensors(memory)),
        "key frames": ", ".join(f"{key.number} {digest(_of_key(key))}" for key in keys) or "none",
    }


def digest(tensors: Sequence[Tensor]) -> str:
    """The first digits of a digest of tensors."""
    made = hashlib.sha256()
    for tensor in tensors:
        made.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().contiguous().cpu().reshape(-1)
        made.update(flat.view(torch.uint8).numpy().tobytes())  # numpy has no bfloat16
    return made.hexdigest()[:16]


def file_identity(path: Path) -> str:
    """Size of a file, and a digest of both its ends: the whole of a film would take minutes.

    :raises OSError: it cannot be read.
    """
    size = path.stat().st_size
    made = hashlib.sha256()
    with path.open("rb") as file:
        made.update(file.read(_ENDS))
        if size > _ENDS:
            file.seek(-min(_ENDS, size - _ENDS), os.SEEK_END)
            made.update(file.read())
    return f"{size} bytes, {made.hexdigest()[:16]}"


def _of_key(key: KeyFrame) -> list[Tensor]:
    return [key.picture, *([] if key.mask is None else [key.mask])]


def _tensors(memory: ColorMemory) -> list[Tensor]:
    keys = () if memory.keys is None else (memory.keys.data, memory.keys.factors)
    palettes = [t for each in memory.palettes for t in (each.chroma, each.lightness, each.mask)]
    return [t for t in (*keys, memory.chroma, memory.weight, memory.source, *palettes) if t is not None]
