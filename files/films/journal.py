"""Which shots of a film are written, beside the output: ``OUTPUT.parts/journal.jsonl``, a line of JSON each.

The first line says what the work is, so that nobody goes on with another. A line that was cut off by a kill is passed
over: its shot counts as not written.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from .. import plain_json

NAME = "journal.jsonl"
#: Held by the run that writes; gone with its process, however that ends.
LOCK = ".writing-lock"
_MAKER = "exemplar.film"
_VERSION = 1
#: What a lock says that another process has.
_TAKEN = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
#: The byte that is locked on Windows, behind all that is read.
_LOCKED = 2**20
#: Letters up to which values that differ are told, and not only their name.
_TOLD = 40
#: Bytes of a line: one of a shot with thumbnail and sizes of ten thousand frames has less.
_LONGEST = 4_000_000


def take_lock(file: BinaryIO) -> bool:
    """Lock an open file for this process, until it is closed.

    :returns: False where another process has the lock. Where there are no locks at all, nobody is kept out.
    """
    try:
        import fcntl
    except ImportError:
        return _take_lock_on_windows(file)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _TAKEN
    return True


def _take_lock_on_windows(file: BinaryIO) -> bool:
    """There a lock keeps out the process itself, too, so the file says whose it is, before the byte that is locked."""
    msvcrt: Any = import_module("msvcrt")
    own = str(os.getpid()).encode()
    try:
        file.seek(_LOCKED)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError as error:
        if error.errno not in _TAKEN:
            return True
        file.seek(0)
        return file.read(len(own) + 1) == own
    file.truncate(0)
    file.seek(0)
    file.write(own)
    file.flush()
    return True


class Journal:
    """The journal in a folder of parts.

    :param made: what identifies the work.
    """

    def __init__(self, folder: Path, made: Mapping[str, str]) -> None:
        self.folder, self.path, self.made = folder, folder / NAME, dict(made)
        self._lock: BinaryIO | None = None

    def check(self) -> None:
        """Whether the folder of parts is not there yet, or is of this very work.

        :raises ValueError: it is somebody else's, of other work (the message says what differs), or being written now.
        """
        if not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise ValueError(f"{self.folder} is a file, where parts of the film are to go; move it away.")
        head = self._head()
        if head is None:
            if any(not each.name.startswith(".writing-") for each in self.folder.iterdir()):
                raise ValueError(
                    f"{self.folder} is there already and holds no journal of a film, so nothing is written into it; "
                    "move it away, or choose another output."
                )
            return
        self._compare(head["made"], self.made)
        self._claim()

    def _claim(self) -> None:
        """Keep other processes out, which would throw away what this one writes.

        A process may claim again what it holds: a run that it stopped may not be forgotten yet. Some network drives
        have no locks; there two runs are not told apart.
        """
        if self._lock is not None:
            return
        lock = (self.folder / LOCK).open("a+b")
        if not take_lock(lock):
            lock.close()
            raise ValueError(
                f"{self.folder} is being written by another run; wait until that has ended, or choose another output."
            )
        self._lock = lock

    def release(self) -> None:
        """Let others in."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def begin(self, shots: Sequence[tuple[int, int]]) -> dict[int, dict[str, Any]]:
        """Begin, or go on.

        :param shots: first frame of each, and the one after its last.
        :returns: lines of the shots that were journaled, by number.
        :raises ValueError: as :meth:`check`, and where shots differ.
        """
        self.check()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._claim()
        head = self._head()
        if head is None:
            from ..output import whole

            with whole(self.path) as beside:
                line = {
                    "maker": _MAKER,
                    "version": _VERSION,
                    "made": self.made,
                    "shots": [list(each) for each in shots],
                }
                beside.write_text(json.dumps(line, ensure_ascii=False) + "\n", "utf-8")
            return {}
        if [tuple(each) for each in head["shots"]] != [tuple(each) for each in shots]:
            raise ValueError(self._other("shots"))
        return {line["shot"]: line for line in self._lines()[1:] if isinstance(line.get("shot"), int)}

    def add(self, line: Mapping[str, Any]) -> None:
        """Write a line to the disk.

        :raises OSError: it cannot be written.
        """
        text = json.dumps(line, ensure_ascii=False)
        with self.path.open("rb+") as file:
            end = file.seek(0, 2)
            file.seek(max(0, end - 1))
            start = b"" if file.read(1) == b"\n" else b"\n"  # behind a line that was cut off
            file.seek(0, 2)
            file.write(start + text.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    @property
    def is_finished(self) -> bool:
        """Whether the film was put together from these parts."""
        return self._head() is not None and any("finished" in line for line in self._lines())

    def finished(self) -> Any:
        """What :meth:`add` was told of the finished film; none if it is not."""
        return next((line["finished"] for line in reversed(self._lines()) if "finished" in line), None)

    def _head(self) -> dict[str, Any] | None:
        lines = self._lines()
        head = lines[0] if lines else {}
        if head.get("maker") != _MAKER:
            return None
        if head.get("version") != _VERSION or not isinstance(head.get("made"), dict):
            raise ValueError(f"{self.path} is of another version of this program; remove {self.folder} and run again.")
        return head

    def _lines(self) -> list[dict[str, Any]]:
        if not self.path.is_file():
            return []
        found = []
        with self.path.open("rb") as file:
            while line := file.readline(_LONGEST):
                try:
                    said = plain_json.parse(line)
                except ValueError:
                    if not found:
                        return []
                    continue
                if isinstance(said, dict):
                    found.append(said)
        return found

    def _compare(self, before: Mapping[str, Any], now: Mapping[str, str]) -> None:
        names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
        if names:
            raise ValueError(self._other(", ".join(_apart(name, before.get(name), now.get(name)) for name in names)))

    def _other(self, names: str) -> str:
        return (
            f"{self.folder} holds shots of other work: {names} differ. Run it with what it was begun with, choose "
            "another output, or remove that folder."
        )


def _apart(name: str, before: object, now: str | None) -> str:
    """What differs, with both values where they are short enough to be read."""
    both = [str(each or "none") for each in (before, now)]
    return f"{name} ({both[0]}, now {both[1]})" if max(map(len, both)) <= _TOLD else name
