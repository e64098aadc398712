"""The pictures of a folder tree or of a list, in one order that does not change from run to run."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath

from ..pictures import READ

#: Bytes of a list of files: a hundred thousand long names.
_LONGEST_LIST = 50_000_000
#: Bytes that are read at once.
_BLOCK = 1 << 20


def pictures_of(root: Path, skip: Path, on_note: Callable[[str], None]) -> Iterator[str]:
    """Names of the pictures below a folder, relative to it, with slashes, each folder's sorted.

    Links to folders are followed once: a folder that was seen under another name is left out and told, so that links in
    circles end. Hidden files and folders are passed over.

    :param skip: a folder that is left out: that of the results.
    :param on_note: told a sentence about what is left out.
    :raises OSError: the folder itself cannot be read.
    """
    seen: dict[tuple[int, int], str] = {}
    waiting = [PurePath()]
    while waiting:
        folder = waiting.pop()
        here = root / folder
        try:
            known = os.stat(here)
            if other := seen.get((known.st_dev, known.st_ino)):
                on_note(f"{here} leads to {other}, which is looked at already; it is left out.")
                continue
            seen[known.st_dev, known.st_ino] = str(here)
            if os.path.exists(skip) and os.path.samestat(known, os.stat(skip)):
                continue
            entries = sorted((each for each in os.scandir(here) if not each.name.startswith(".")), key=_by_name)
        except OSError as error:
            if folder == PurePath():
                raise
            on_note(f"{here} cannot be looked into ({error.strerror}); it is left out.")
            continue
        below = []
        for entry in entries:
            if _is_folder(entry):
                below.append(folder / entry.name)
            elif Path(entry.name).suffix.lower() in READ:
                yield (folder / entry.name).as_posix()
        waiting += reversed(below)


def pictures_listed(path: Path) -> Iterator[str]:
    """Names of pictures from a text file, one a line, relative to its folder; empty lines are passed over.

    :raises ValueError: a name that leads out of the list's folder, or twice the same, or the file is no text.
    """
    if path.stat().st_size > _LONGEST_LIST:
        raise ValueError(
            f"{path} has {path.stat().st_size} bytes, more than any list of files; name a list or a folder."
        )
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text; expected a list of pictures, one a line.") from error
    seen: set[str] = set()
    root = os.path.abspath(path.parent)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if "\0" in line:
            raise ValueError(f"{path}: line {number} is no name of a file; expected a list of pictures, one a line.")
        name = os.path.relpath(os.path.normpath(os.path.join(root, line.strip())), root)
        if PurePath(name).is_absolute() or name.split(os.sep)[0] == os.pardir:
            raise ValueError(
                f"{path}: line {number} leads out of the list's folder ({line.strip()[:160]}); put the list into a "
                "folder that has all of them."
            )
        name = PurePath(name).as_posix()
        if name in seen:
            raise ValueError(f"{path}: line {number} names {name[:160]} a second time; leave one out.")
        seen.add(name)
        yield name


def digest_of(path: Path) -> str:
    """SHA-256 of a file's content.

    :raises OSError: it cannot be read.
    """
    made = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            made.update(block)
    return made.hexdigest()


def _by_name(entry: os.DirEntry[str]) -> bytes:
    return os.fsencode(entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
