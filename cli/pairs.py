"""Pictures of several folders that belong together by their names, as commands that compare them need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

#: What our own commands put behind an input's name.
_MADE = ("_colored", "_matched", "_recolored", "_translated")
_SHEET = "_sheet"
#: Names that a message lists.
_LISTED = 5


def pictures_of(option: str, places: Sequence[Path]) -> list[Path]:
    """The pictures of folders, and pictures named one by one, sorted by their names. Contact sheets are passed over.

    :param option: what the user calls them.
    :raises FileNotFoundError: something is not there.
    :raises ValueError: a folder without pictures.
    """
    from ..files.pictures import READ

    found: list[Path] = []
    for place in places:
        if not place.exists():
            raise FileNotFoundError(f"{place} does not exist; look at what is named after {option}.")
        if not place.is_dir():
            found.append(place)
            continue
        inside = [path for path in place.iterdir() if path.suffix.lower() in READ and path.is_file()]
        stems = {path.stem for path in inside}
        kept = [path for path in inside if path.stem.removesuffix(_SHEET) == path.stem or not _is_sheet(path, stems)]
        if not kept:
            raise ValueError(f"{place}: found no picture in this folder, named after {option}; name another folder.")
        found += kept
    return sorted(found, key=lambda path: (path.stem, path.name))


def _is_sheet(path: Path, stems: set[str]) -> bool:
    return path.stem.removesuffix(_SHEET) in stems


def paired(option: str, outputs: Sequence[Path], places: Sequence[Path]) -> dict[Path, Path]:
    """Which picture belongs to each output: the one of the same name, whatever its suffix, or one that is for all.

    :param places: a folder, or a single picture for all.
    :returns: by output.
    :raises FileNotFoundError: something is not there.
    :raises ValueError: outputs without a picture, or pictures of one name.
    """
    pictures = pictures_of(option, places)
    if len(pictures) == 1 and not places[0].is_dir():
        return dict.fromkeys(outputs, pictures[0])
    by_stem: dict[str, Path] = {}
    for path in pictures:
        if other := by_stem.get(path.stem):
            raise ValueError(f"{option}: found {other} and {path}, expected one picture of a name; take one away.")
        by_stem[path.stem] = path
    found = {path: by_stem.get(path.stem) or by_stem.get(_plain(path.stem)) for path in outputs}
    missing = [path.name for path, other in found.items() if other is None]
    if missing:
        listed = f"{', '.join(missing[:_LISTED])}{', ...' * (len(missing) > _LISTED)}"
        raise ValueError(
            f"{option}: found no picture for {len(missing)} of {len(outputs)} outputs ({listed}) in {places[0]}, "
            "expected one of the same name for each, such as 001.jpg for 001.png; rename them, or take the outputs "
            "away."
        )
    return {path: other for path, other in found.items() if other is not None}


def _plain(stem: str) -> str:
    """A name less what our commands put behind it."""
    return next((stem.removesuffix(word) for word in _MADE if stem.endswith(word)), stem)


def check_stems(outputs: Sequence[Path]) -> None:
    """Whether no two outputs have one name, so that each has numbers of its own.

    :raises ValueError: two have.
    """
    known: dict[str, Path] = {}
    for path in outputs:
        if other := known.get(path.stem):
            raise ValueError(f"found {other} and {path} as outputs, expected one of a name; take one away.")
        known[path.stem] = path
