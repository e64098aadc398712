"""What a film is colored by on the command line: key frames, references, and what identifies them."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .sources import Source, is_colored, masked, read_mask, upright

if TYPE_CHECKING:
    from ..memory.entries import ColorMemory
    from ..pipelines.exemplar_references import References
    from ..pipelines.film_memory import KeyFrame
    from ..pipelines.film_settings import FilmSettings
    from .looking import Looking

#: Bytes at both ends of a film by which it is known again.
_ENDS = 2**20


@dataclass(frozen=True)
class KeyPicture:
    """``--key-frame``: a frame's number and its picture."""

    number: int
    source: Source


def key_picture(text: str) -> KeyPicture:
    """``12=A.png`` or ``12=A.png@mask.png``.

    :raises argparse.ArgumentTypeError: it is none of these.
    """
    number, sign, name = text.partition("=")
    if not sign or not number.strip().isascii() or not number.strip().isdigit() or len(number) > 12:
        raise argparse.ArgumentTypeError(f"{text!r} does not begin with a frame's number, such as 120=picture.png")
    return KeyPicture(int(number), masked(name))


def read_keys(named: Sequence[KeyPicture]) -> tuple[KeyFrame, ...]:
    """Key frames with their pictures.

    :raises ValueError: no picture, or a mask that covers nothing.
    """
    from ..files.pictures import load_picture
    from ..pipelines.film_memory import KeyFrame

    return tuple(
        KeyFrame(key.number, load_picture(key.source.path), read_mask(f"--key-frame {key.number}", key.source))
        for key in named
    )


def memory_of(references: Sequence[Source], known: Sequence[ColorMemory], looking: Looking) -> ColorMemory | None:
    """References, and memories from files, as one; None where there are none.

    :raises ValueError: no reference has color.
    """
    from tqdm import tqdm

    from ..files.pictures import load_picture
    from ..memory.entries import merged
    from ..pipelines.memory import write_references
    from ..pipelines.memory_settings import WritingSettings

    gray = [each.path for each in references if not is_colored(upright(each.path)[0])]
    if gray and len(gray) == len(references) and not known:
        raise ValueError(
            f"--reference {', '.join(map(str, gray))}: found no color, expected color pictures; name some."
        )
    settings = WritingSettings.resolve(looking.recommended, features=looking.asking.features)
    memories = [
        write_references(
            looking.network,
            load_picture(each.path),
            settings,
            masks=read_mask("--reference", each),
            weights=(each.weight or 1.0,),
            names=(each.path.name,),
            maker=looking.name,
            beside_others=True,
        )
        for each in tqdm(references, desc="memory", unit="call", disable=not references)
    ]
    return merged([*memories, *known]) if memories or known else None


def together(references: Sequence[Source]) -> References:
    """References of the thorough method, which all serve every frame."""
    from ..files.pictures import load_picture
    from ..pipelines.exemplar_references import References

    return References(
        tuple(load_picture(each.path) for each in references),
        tuple(read_mask("--reference", each) for each in references),
        tuple(each.weight or 1.0 for each in references),
    )


def identity(
    film: Path,
    looking: Looking,
    settings: FilmSettings,
    memory: ColorMemory | None,
    keys: Sequence[KeyFrame],
) -> dict[str, str]:
    """What a film's result depends on, by what a message calls it: what goes on must have all of it alike."""
    from ..settings import entries, value_of

    values = {name: value_of(settings, entry) for name, entry in entries(type(settings)).items()}
    return {
        "input": _ends(film),
        "model": looking.network.fingerprint,
        "settings": json.dumps(values, sort_keys=True),
        "references": "none" if memory is None else _digest(_tensors(memory)),
        "key frames": ", ".join(
            f"{key.number} {_digest([key.picture, *([] if key.mask is None else [key.mask])])}" for key in keys
        )
        or "none",
    }


def _tensors(memory: ColorMemory) -> list:
    keys = () if memory.keys is None else (memory.keys.data, memory.keys.factors)
    palettes = [t for each in memory.palettes for t in (each.chroma, each.lightness, each.mask)]
    return [t for t in (*keys, memory.chroma, memory.weight, memory.source, *palettes) if t is not None]


def _digest(tensors: Sequence) -> str:
    """The first digits of a digest of tensors."""
    made = hashlib.sha256()
    for tensor in tensors:
        made.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        made.update(tensor.contiguous().cpu().numpy().tobytes())
    return made.hexdigest()[:16]


def _ends(path: Path) -> str:
    """Size of a file, and a digest of both its ends: the whole of a film would take minutes."""
    size = path.stat().st_size
    made = hashlib.sha256()
    with path.open("rb") as file:
        made.update(file.read(_ENDS))
        if size > _ENDS:
            file.seek(-min(_ENDS, size - _ENDS), os.SEEK_END)
            made.update(file.read())
    return f"{size} bytes, {made.hexdigest()[:16]}"
