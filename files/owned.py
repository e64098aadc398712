"""Files that only their maker replaces: learned embeddings, adapters, color memories, inversions.

The header of a safetensors file says who made it. A file of another program, or one that somebody writes while work is
going on, stays; what was worked out then gets a free name beside it, so that it is not lost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import count
from pathlib import Path

from .headers import read_metadata
from .output import check_destination

SUFFIX = ".safetensors"

#: ``write(path, new)`` writes a file whole; with ``new`` it raises :class:`FileExistsError` where there is one.
Write = Callable[[Path, bool], object]


class OwnPlace:
    """Where a file is to go, and what was there when it was last looked at. It lives as long as the work.

    :param path: the file; its folder is made if need be.
    :param key: in the headers of the maker's files.
    :param maker: who that is, for messages.
    :raises ValueError: it cannot be written there, or there is a file of another maker.
    """

    def __init__(self, path: Path, key: str, maker: str) -> None:
        check_owned(path, key, maker)
        self.path, self._seen = path, _content(path)

    def write(self, write: Write) -> None:
        """Write the file, unless somebody else has written there since.

        :raises ValueError: somebody has; the message says under which name the file is now. So it does for whatever is
            written later.
        :raises OSError: it cannot be written.
        """
        found = _content(self.path)
        try:
            if found not in ("", self._seen):
                raise FileExistsError
            write(self.path, not found)
            self._seen = _content(self.path)
        except FileExistsError:
            asked = self.path
            self._write_beside(write)
            raise ValueError(
                f"{asked} was written by somebody else in the meantime and is left as it is; what was made here is in "
                f"{self.path.name} beside it. Use that name, or let one at a time write to one name."
            ) from None

    def _write_beside(self, write: Write) -> None:
        for number in count(2):
            path = self.path.with_stem(f"{self.path.stem}-{number}")
            try:
                write(path, True)
            except FileExistsError:
                continue
            self.path, self._seen = path, _content(path)
            return


def write_new(folder: Path, stem: str, number: int, write: Write, suffix: str = SUFFIX) -> Path:
    """Write a file under the first free number, ``stem_00001_.safetensors``; nothing is replaced.

    :param number: the first that is tried.
    :param suffix: of its name, with the dot.
    :returns: where it is.
    :raises OSError: it cannot be written.
    """
    for free in count(number):
        path = folder / f"{stem}_{free:05}_{suffix}"
        try:
            write(path, True)
        except FileExistsError:
            continue
        return path
    raise AssertionError("unreachable: numbers do not end")


def check_owned(path: Path, key: str, maker: str) -> None:
    """Whether a file can be written, and replaces none of another maker; see :class:`OwnPlace`.

    :raises ValueError: it cannot, or would.
    """
    check_destination(path, (SUFFIX,))
    if not path.exists():
        return
    try:
        is_owned = key in read_metadata(path)
    except ValueError:  # no safetensors file, or a damaged one: nobody says whose
        is_owned = False
    if not is_owned:
        raise ValueError(
            f"{path} is there already and its header does not say that {maker} made it, so it is not replaced; choose "
            "another name, or move that file away."
        )


def _content(path: Path) -> str:
    """A number of a file's content; "" where there is none."""
    total = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                total.update(block)
    except FileNotFoundError:
        return ""
    return total.hexdigest()
