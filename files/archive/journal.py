"""Which files of an archive are done, in ``OUTPUT/.exemplar-archive/journal.sqlite``.

A row a file: the input's name, size, time and content (SHA-256), what its folder's settings are, the result's name and
content, time, confidence, error and state. What the whole work is (method, settings, model, versions) stands beside
them, so that nobody goes on with other work. Rows are asked for in pages: memory does not grow with the archive.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..films.journal import take_lock
from .receipts import Outcome

FOLDER = ".exemplar-archive"
NAME = "journal.sqlite"
_MAKER, _VERSION = "exemplar.archive", "1"
#: Letters up to which values that differ are told, and not only their name.
_TOLD = 60
#: Rows of a page.
_PAGE = 512
#: How often a file is tried before it is left.
TRIES = 2

_TABLES = """
CREATE TABLE said (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE files (
    number INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, place BLOB NOT NULL, key BLOB NOT NULL,
    size INTEGER NOT NULL, changed INTEGER NOT NULL, content TEXT NOT NULL, folder TEXT NOT NULL,
    state TEXT NOT NULL, tries INTEGER NOT NULL DEFAULT 0, first INTEGER, output TEXT NOT NULL DEFAULT '',
    seconds REAL, confidence REAL, error TEXT NOT NULL DEFAULT '', finished REAL, thumbnail BLOB, run INTEGER NOT NULL);
CREATE INDEX by_state ON files (state, number);
CREATE INDEX by_content ON files (content, folder);
CREATE INDEX by_key ON files (key);
"""
_COLUMNS = "number, path, place, state, tries, first, output, seconds, confidence, error, folder, content, thumbnail"


@dataclass(frozen=True)
class Found:
    """A file that was found now.

    :param path: below the input's folder; ``place`` the result's below the output's, ``key`` what that has in common
        with names that are the same file there.
    :param changed: nanoseconds. ``content``: SHA-256; empty where the file could not be read.
    :param folder: digest of what is said of its folder.
    """

    path: str
    place: str
    key: str
    size: int
    changed: int
    content: str
    folder: str


@dataclass(frozen=True)
class Row:
    """What is known of a file.

    :param state: ``waiting``, ``done``, ``failed``, or ``same`` for one that waits for the ``first`` of its content.
    """

    number: int
    path: str
    place: str
    state: str
    tries: int
    first: int | None
    output: str
    seconds: float | None
    confidence: float | None
    error: str
    folder: str
    content: str
    thumbnail: bytes | None

    @classmethod
    def of(cls, values: tuple[Any, ...]) -> Row:
        """From :data:`_COLUMNS`."""
        return cls(values[0], os.fsdecode(values[1]), os.fsdecode(values[2]), *values[3:])


class Journal:
    """The journal of an output folder, held by one run at a time.

    :param output: the folder of the results.
    :param made: what identifies the work, by what messages call it.
    """

    def __init__(self, output: Path, made: Mapping[str, str]) -> None:
        self.folder, self.made = output / FOLDER, {name: _text(value) for name, value in made.items()}
        self.path = self.folder / NAME
        self._lock: BinaryIO | None = None
        self._base: sqlite3.Connection | None = None
        self.run = 0

    def check(self) -> None:
        """Whether there is none yet, or one of this very work. Nothing is written.

        :raises ValueError: there is one of other work (the message says what differs), or something else of the name.
        """
        if not os.path.lexists(self.path):
            return
        try:
            base = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True)
            try:
                said = dict(base.execute("SELECT name, value FROM said"))
            finally:
                base.close()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error) and self._is_unbegun():
                return
            raise ValueError(f"{self.path} cannot be read ({error}); {_AWAY}") from error
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{self.path} is no journal of an archive ({error}); {_AWAY}") from error
        if (said.pop("maker", None), said.pop("version", None)) != (_MAKER, _VERSION):
            raise ValueError(f"{self.path} is of another version of this program, or of another one; {_AWAY}")
        said.pop("run", None)
        names = [name for name in sorted({*said, *self.made}) if said.get(name) != self.made.get(name)]
        if names:
            told = ", ".join(_apart(name, said.get(name), self.made.get(name)) for name in names)
            raise ValueError(
                f"{self.folder.parent} holds results of other work: {told} differ. Run it with what it was begun with, "
                "or choose another output."
            )

    def _is_unbegun(self) -> bool:
        """A file that was made and whose first transaction was never whole."""
        return self.path.stat().st_size == 0

    def open(self) -> None:
        """Begin a run, or go on; the output folder must be there.

        :raises ValueError: as :meth:`check`, or another run has it.
        :raises OSError: it cannot be written.
        """
        self.check()
        self.folder.mkdir(exist_ok=True)
        lock = (self.folder / "lock").open("a+b")
        if not take_lock(lock):
            lock.close()
            raise ValueError(f"{self.folder.parent} is being written by another run; wait until that has ended.")
        self._lock = lock
        base = self._base = sqlite3.connect(self.path, isolation_level=None)
        base.execute("PRAGMA synchronous = FULL")
        base.execute("PRAGMA cache_size = -8000")
        with self._writing() as base:
            if not base.execute("SELECT 1 FROM sqlite_master WHERE name = 'said'").fetchone():
                for statement in _TABLES.split(";"):
                    base.execute(statement)
                said = {"maker": _MAKER, "version": _VERSION, "run": "0", **self.made}
                base.executemany("INSERT INTO said VALUES (?, ?)", said.items())
            base.execute("UPDATE said SET value = value + 1 WHERE name = 'run'")
        self.run = int(self._ask("SELECT value FROM said WHERE name = 'run'").fetchone()[0])

    def close(self) -> None:
        """Let others in."""
        if self._base is not None:
            self._base.close()
        if self._lock is not None:
            self._lock.close()
        self._base = self._lock = None

    def _ask(self, text: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        assert self._base is not None, "open it first"
        return self._base.execute(text, values)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction; a full disk is told as such.

        :raises OSError: it cannot be written.
        """
        assert self._base is not None, "open it first"
        try:
            self._base.execute("BEGIN IMMEDIATE")
            yield self._base
            self._base.execute("COMMIT")
        except BaseException as error:
            if self._base.in_transaction:
                self._base.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError):
                raise OSError(
                    f"{self.path} could not be written: {error}; make room, or look at the place. What is done stays."
                ) from error
            raise

    def known(self, path: str) -> tuple[int, int, str] | None:
        """Size, time and content of a file when it was looked at last."""
        return self._ask("SELECT size, changed, content FROM files WHERE path = ?", (os.fsencode(path),)).fetchone()

    def look(self, found: Iterable[Found]) -> None:
        """Take in what is there now. A file whose content or folder's settings changed waits again.

        :raises OSError: it cannot be written.
        """
        with self._writing() as base:
            for each in found:
                base.execute(
                    """
                    INSERT INTO files (path, place, key, size, changed, content, folder, state, run)
                    VALUES (?, ?, ?, ?, ?, ?, ?, 'waiting', ?)
                    ON CONFLICT (path) DO UPDATE SET
                        state = CASE WHEN content = excluded.content AND content <> '' AND folder = excluded.folder
                            AND key = excluded.key THEN state ELSE 'waiting' END,
                        tries = CASE WHEN content = excluded.content AND folder = excluded.folder THEN tries ELSE 0 END,
                        place = excluded.place, key = excluded.key, size = excluded.size, changed = excluded.changed,
                        content = excluded.content, folder = excluded.folder, run = excluded.run
                    """,
                    (
                        *(os.fsencode(text) for text in (each.path, each.place, each.key)),
                        *(each.size, each.changed, each.content, each.folder, self.run),
                    ),
                )

    def collisions(self, most: int = 3) -> tuple[int, list[list[str]]]:
        """How many names of results several files would have, and the files of some of them."""
        where = "FROM files WHERE run = ? GROUP BY key HAVING count(*) > 1"
        count = self._ask(f"SELECT count(*) FROM (SELECT 1 {where})", (self.run,)).fetchone()[0]
        listed = []
        for (key,) in self._ask(f"SELECT key {where} ORDER BY min(number) LIMIT ?", (self.run, most)).fetchall():
            rows = self._ask("SELECT path FROM files WHERE run = ? AND key = ? ORDER BY number", (self.run, key))
            listed.append([os.fsdecode(path) for (path,) in rows])
        return count, listed

    def settle(self, *, retry: bool = False) -> None:
        """After all that is there was taken in: find files of the same content, and what is tried again.

        Of several with one content and the same settings the first is worked on, one that is done before others; the
        others are ``same``.

        :param retry: whether files that were left as failed are tried anew.
        """
        with self._writing() as base:
            if retry:
                base.execute(
                    "UPDATE files SET state = 'waiting', tries = 0 WHERE state = 'failed' AND run = ?", (self.run,)
                )
            base.execute(
                "UPDATE files SET state = 'waiting', first = NULL WHERE state = 'same' AND run = ?", (self.run,)
            )
            base.execute(
                """
                UPDATE files SET state = 'same', first = chosen.number FROM (
                    SELECT content, folder, number FROM (
                        SELECT content, folder, number, row_number() OVER (
                            PARTITION BY content, folder ORDER BY state = 'done' DESC, number) AS place
                        FROM files WHERE run = :run AND content <> '') WHERE place = 1) AS chosen
                WHERE files.run = :run AND files.state = 'waiting' AND files.content = chosen.content
                    AND files.folder = chosen.folder AND files.number <> chosen.number
                """,
                {"run": self.run},
            )

    def owns(self, place: str) -> bool:
        """Whether a result of this name was written by this archive."""
        asked = "SELECT 1 FROM files WHERE place = ? AND output <> '' LIMIT 1"
        return self._ask(asked, (os.fsencode(place),)).fetchone() is not None

    def rows(self, state: str, *, tries: int | None = None) -> Iterator[Row]:
        """Files that are there now and in a state, in order, page by page: what is recorded meanwhile may change it."""
        last = 0
        while True:
            page = self._ask(
                f"SELECT {_COLUMNS} FROM files WHERE state = ? AND run = ? AND number > ? "
                "AND tries = coalesce(?, tries) ORDER BY number LIMIT ?",
                (state, self.run, last, tries, _PAGE),
            ).fetchall()
            for values in page:
                yield Row.of(values)
            if len(page) < _PAGE:
                return
            last = page[-1][0]

    def row(self, number: int) -> Row:
        """One file."""
        return Row.of(self._ask(f"SELECT {_COLUMNS} FROM files WHERE number = ?", (number,)).fetchone())

    def sorted_rows(self) -> Iterator[Row]:
        """All files that are there now: failed ones, then done ones, the least confident first."""
        cursor = self._ask(
            f"SELECT {_COLUMNS} FROM files WHERE run = ? "
            "ORDER BY state = 'done', confidence IS NULL, confidence, number",
            (self.run,),
        )
        while page := cursor.fetchmany(_PAGE):
            yield from map(Row.of, page)

    def record(self, outcomes: Iterable[Outcome]) -> None:
        """Write what became of files, in one transaction.

        :raises OSError: it cannot be written.
        """
        now = time.time()
        with self._writing() as base:
            base.executemany(
                "UPDATE files SET state = ?, tries = tries + 1, output = CASE WHEN ? = '' THEN output ELSE ? END, "
                "seconds = ?, confidence = ?, error = ?, thumbnail = ?, finished = ? WHERE number = ?",
                [
                    (
                        *("failed" if each.error else "done", each.output, each.output, each.seconds),
                        *(each.confidence, _text(each.error), each.picture, now, each.number),
                    )
                    for each in outcomes
                ],
            )

    def counts(self) -> dict[str, int]:
        """Files that are there now, by state."""
        return dict(self._ask("SELECT state, count(*) FROM files WHERE run = ? GROUP BY state", (self.run,)).fetchall())

    def copies(self) -> int:
        """Files that are there now whose content another one has."""
        return self._ask("SELECT count(*) FROM files WHERE run = ? AND first IS NOT NULL", (self.run,)).fetchone()[0]


_AWAY = "move it away, or choose another output."


def _text(text: str) -> str:
    """Text that SQLite takes: a file's name may hold bytes that are no letters."""
    return text.encode("utf-8", "backslashreplace").decode()


def _apart(name: str, before: str | None, now: str | None) -> str:
    """What differs, with both values where they are short enough to be read."""
    both = [each or "none" for each in (before, now)]
    return f"{name} ({both[0]}, now {both[1]})" if max(map(len, both)) <= _TOLD else name
