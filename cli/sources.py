"""What colors come from, as written on the command line: references, strokes and palettes."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .options import path as path_of

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Source:
    """A picture file, what of it counts, and how much.

    :param mask: a picture that is white there; None for all of it.
    :param weight: beside others; None where none is written.
    """

    path: Path
    mask: Path | None = None
    weight: float | None = None


def reference(text: str) -> Source:
    """``A``, ``A@mask.png``, ``A*2`` or ``A@mask.png*2``; a file of the whole name is that file.

    :raises argparse.ArgumentTypeError: none of these, or a weight that is not above 0.
    """
    from ..pipelines.memory_settings import MOST_WEIGHT

    whole = path_of(text)
    if os.path.lexists(whole):
        return Source(whole)
    name, star, number = text.rpartition("*")
    if not star:
        return masked(text)
    try:
        weight = float(number)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} ends in *{number}, expected a number, such as *0.5") from None
    if not 0 < weight <= MOST_WEIGHT or not math.isfinite(weight):
        raise argparse.ArgumentTypeError(
            f"{text!r} has the weight {number}, expected a number above 0 and up to {MOST_WEIGHT:g}; leave out what is "
            "not to count"
        )
    if os.path.lexists(path_of(name)):
        return Source(Path(name), weight=weight)
    if "*" in name:
        raise argparse.ArgumentTypeError(f"{text!r} has more than one weight, expected one for one reference")
    found = masked(name)
    return Source(found.path, found.mask, weight)


def masked(text: str) -> Source:
    """``A`` or ``A@mask.png``; a file of the whole name is that file.

    :raises argparse.ArgumentTypeError: a name that no file can have.
    """
    whole = path_of(text)
    name, at, mask = text.rpartition("@")
    if not at or os.path.lexists(whole):
        return Source(whole)
    return Source(path_of(name), path_of(mask))


def pictures(references: Sequence[Source]) -> dict[str, Path | None]:
    """All pictures of references, by what a message calls them."""
    named: dict[str, Path | None] = {}
    for number, each in enumerate(references, 1):
        called = f"--reference {number}" if len(references) > 1 else "--reference"
        named |= {called: each.path, f"the mask of {called}": each.mask}
    return named


def read_mask(option: str, source: Source) -> Tensor | None:
    """The mask of a source, (1, H, W); None where it has none.

    :raises ValueError: no mask, or one that covers nothing.
    """
    if source.mask is None:
        return None
    from ..files.masks import load_mask

    mask = load_mask(source.mask)
    if not bool((mask > 0).any()):
        raise ValueError(
            f"{option} {source.path}: its mask {source.mask} covers nothing, expected some white; paint it where the "
            "picture counts, or leave it out."
        )
    return mask


def upright(path: Path) -> tuple[Tensor, Tensor | None]:
    """Pixels and transparency of a picture that is read once more elsewhere, where what is to be told of it is told."""
    from ..files.pictures import read_photograph

    photograph = read_photograph(path)
    return photograph.images, photograph.alpha


def is_colored(picture: Tensor) -> bool:
    """Whether a picture, (1, H, W, 3), has any color."""
    from ..color import rgb_to_lab
    from ..memory.palette import GRAY

    return float(rgb_to_lab(picture.float())[..., 1:].norm(dim=-1).max()) >= GRAY


def palette_file(text: str) -> Path | None:
    """The picture that a palette is; None where colors are listed."""
    return None if text.lstrip().startswith("#") else Path(text)


def palette_text(text: str) -> str:
    """A picture's name, or colors such as ``#c8102e,#003``.

    :raises argparse.ArgumentTypeError: a name that no file can have, or no colors.
    """
    path_of(text)
    if palette_file(text) is None:
        from ..pipelines.memory_settings import PaletteSettings

        try:
            _ = PaletteSettings(text).listed
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error).removeprefix("colors: ").rstrip(".")) from None
    return text
