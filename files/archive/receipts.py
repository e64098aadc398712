"""What a worker finished: a line a result, written before the result has its name.

A driver that was killed may not have heard of a result; a result that has its name and a receipt with its digest is
whole, and is not made again. Each worker writes a file of its own, so that none waits for another.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import plain_json

_PATTERN = "receipts-*.jsonl"
#: Bytes of a line: one with a thumbnail has some ten thousand.
_LONGEST = 1_000_000


@dataclass(frozen=True)
class Outcome:
    """What became of a file.

    :param number: the file's in the journal.
    :param output: SHA-256 of the result; empty where there is none.
    :param confidence: 0..1, the mean over the picture; None where the method tells none.
    :param seconds: it took.
    :param error: one line; empty for none.
    :param thumbnail: a small JPEG of picture and result, base64.
    :param work: what was done: the input's content and its folder's settings.
    :param stops: whether no other file can be done either, as where the disk is full.
    """

    number: int
    output: str = ""
    confidence: float | None = None
    seconds: float = 0.0
    error: str = ""
    thumbnail: str = ""
    work: str = ""
    stops: bool = False

    @property
    def picture(self) -> bytes | None:
        """The thumbnail, as a file."""
        return base64.b64decode(self.thumbnail) if self.thumbnail else None


class Receipts:
    """A worker's own file of them, open as long as the worker works."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / f"receipts-{uuid.uuid4().hex}.jsonl").open("a", encoding="utf-8")

    def add(self, outcome: Outcome) -> None:
        """Hand a line to the system, where it outlives this process.

        :raises OSError: it cannot be written.
        """
        self._file.write(json.dumps(asdict(outcome)) + "\n")
        self._file.flush()

    def close(self) -> None:
        """No more are written."""
        self._file.close()


def read_receipts(folder: Path, wanted: Collection[int]) -> Iterator[Outcome]:
    """Receipts of some files by their numbers; lines that were cut off are passed over."""
    for path in sorted(folder.glob(_PATTERN)):
        with path.open("rb") as file:
            while line := file.readline(_LONGEST):
                outcome = _outcome(line)
                if outcome is not None and outcome.number in wanted:
                    yield outcome


def remove_receipts(folder: Path) -> None:
    """All of them, once the journal has what they say and no worker is left."""
    for path in folder.glob(_PATTERN):
        path.unlink(missing_ok=True)


def _outcome(line: bytes) -> Outcome | None:
    try:
        said: Any = plain_json.parse(line)
        return Outcome(**said) if isinstance(said, dict) and isinstance(said.get("number"), int) else None
    except (ValueError, TypeError):
        return None
