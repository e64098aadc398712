"""What a film is colored by on the command line: key frames and references."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .sources import Source, is_colored, masked, read_mask, upright

if TYPE_CHECKING:
    from ..memory.entries import ColorMemory
    from ..pipelines.exemplar_references import References
    from ..pipelines.film_memory import KeyFrame
    from .looking import Looking


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
