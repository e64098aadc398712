"""Whether files changed since a node read them, for ``fingerprint_inputs``."""

from __future__ import annotations

import hashlib
from pathlib import Path


def fingerprint(paths: list[Path]) -> str:
    """A number of some files' names and contents: the same as long as both are."""
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            one = hashlib.sha256()
            while block := file.read(1 << 20):
                one.update(block)
        total.update(path.name.encode() + b"\0" + one.digest())
    return total.hexdigest()


def stamp(path: Path) -> str:
    """When a file was written, and its size: for one that is too large to be read only to see whether it changed."""
    about = path.stat()
    return f"{path.name} {about.st_mtime_ns} {about.st_size}"
