"""Names of results: where each goes, and that none replaces what is read or another result."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

#: A file beside what it is to a user: "--reference", "the result of a.png".
Named = tuple[str, Path]


def results(inputs: list[Path], output: str | None, what: str) -> list[Path]:
    """Where each result goes: beside its input, into a folder, or to the one file that is named.

    :param output: as written by the user; a folder where it is one, where it ends with a slash, and for several inputs.
    :param what: the word that results have in their names.
    :raises ValueError: an input that is a folder, one file for several, or a file of a kind that isn't written.
    """
    folder = next(filter(Path.is_dir, inputs), None)
    if folder is not None:
        raise ValueError(f"{folder} is a folder; an input is a picture: name one in it.")
    names = [f"{path.stem}_{what}.png" for path in inputs]
    if output is None:
        return [path.with_name(name) for path, name in zip(inputs, names, strict=True)]
    place = Path(output)
    if output.endswith(("/", os.sep)) or place.is_dir() or not place.suffix:
        return [place / name for name in names]
    from ..files.output import check_suffix
    from ..files.pictures import WRITTEN

    if len(inputs) == 1:
        check_suffix(place, WRITTEN, f"If it is a folder, write {output}/.")
        return [place]
    if place.suffix.lower() in WRITTEN:
        raise ValueError(f"There are {len(inputs)} inputs, but --output names one file, {output}; name a folder.")
    return [place / name for name in names]


def check_read(option: str, path: Path, *, folders: bool = False) -> None:
    """Whether there is what an option names.

    :param folders: whether it may be a folder, too.
    :raises FileNotFoundError: there is nothing.
    :raises ValueError: it is something else.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; look at what is named after {option}.")
    if path.is_dir() and not folders:
        raise ValueError(f"{path} is a folder; {option} wants a file: name one in it.")
    if not path.is_dir() and not path.is_file():
        raise ValueError(f"{path} is no ordinary file; {option} wants one.")


def check_collisions(inputs: list[Path], reads: Iterable[Named], writes: Iterable[Named]) -> None:
    """Whether no file is written over one that is read, or twice.

    :param reads: what is read beside the inputs; a folder stands for all in it.
    :raises ValueError: naming both.
    """
    named: dict[str, Path] = {}
    read: dict[str, Named] = {}
    for path in inputs:
        place = os.path.abspath(path)  # links to one file may have results of their own
        if same := named.get(place):
            also = "" if same == path else f", also as {same}"
            raise ValueError(f"{path} is named twice{also}; leave one out.")
        named[place] = path
        read.setdefault(_key(path), ("an input", path))
    for label, path in reads:
        read.setdefault(_key(path), (label, path))
    written: dict[str, Named] = {}
    for label, path in writes:
        key = _key(path)
        if other := read.get(key) or _inside(path, key, read):
            raise ValueError(f"{path}, {label}, would replace {other[1]}, which is {other[0]}; choose another place.")
        if other := written.get(key):
            raise ValueError(
                f"{other[0]} and {label} would have the same file name, {path}; rename one, or give them different "
                "folders by --output, in two calls."
            )
        written[key] = (label, path)


def _inside(path: Path, key: str, read: dict[str, Named]) -> Named | None:
    """The folder that is read and that a file belongs to, if one does."""
    if not path.exists():
        return None
    return next((named for other, named in read.items() if named[1].is_dir() and key.startswith(other + os.sep)), None)


def _key(path: Path) -> str:
    """What two paths have in common that are one file."""
    real = Path(os.path.realpath(path))
    key = os.path.normcase(str(real))
    return unicodedata.normalize("NFC", key).casefold() if folds_case(real.parent) else key


def folds_case(folder: Path) -> bool:
    """Whether a.png and A.png are one file there, as far as that can be told without writing."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        known = next((entry for entry in folder.iterdir() if entry.name != entry.name.swapcase()), folder)
        return known.with_name(known.name.swapcase()).samefile(known)
    except (OSError, ValueError):  # not there: the two are told apart. ValueError: a root has no name
        return False
