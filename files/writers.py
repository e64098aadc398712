"""Who is writing: a folder for each writer, and what writers that were killed left.

A writer's folder lies beside the file that it will make, and is named after the process. A later writer removes it
when that process is gone: known at once on the machine of its own, by number and start, so that a number that was given
again does not deceive; elsewhere (network drives, other containers) taken for granted after a week without a change.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import sys
import uuid
from contextlib import suppress
from functools import cache
from pathlib import Path

_NAME = re.compile(r"\.writing-(?P<machine>[0-9a-f]{8})-(?P<number>\d{1,9})-(?P<start>\w+)-[0-9a-f]{32}")
#: Seconds without a change after which a writer on another machine counts as gone.
_WEEK = 7 * 24 * 3600.0
#: Stands for the start of a process where it cannot be known.
_UNKNOWN = "x"


def new_folder(beside: Path) -> Path:
    """A folder of this process's own within another.

    :raises OSError: it cannot be made.
    """
    number = os.getpid()
    folder = beside / f".writing-{_machine()}-{number}-{_start(number) or _UNKNOWN}-{uuid.uuid4().hex}"
    folder.mkdir()
    return folder


def clean(own: Path) -> None:
    """Remove what writers that are gone left beside a folder of one's own; what cannot be removed stays.

    :param own: made just now, see :func:`new_folder`: it has the time by the clock of the drive.
    """
    try:
        now = own.lstat().st_mtime
        with os.scandir(own.parent) as entries:
            found = [(match, Path(entry.path)) for entry in entries if (match := _NAME.fullmatch(entry.name))]
    except OSError:  # who may not look may still write
        return
    for match, path in found:
        if _is_gone(match, path, now):
            shutil.rmtree(path, ignore_errors=True)


def _is_gone(match: re.Match[str], path: Path, now: float) -> bool:
    start = _start(int(match["number"])) if match["machine"] == _machine() else None
    if start == "":
        return True
    if start is not None and match["start"] != _UNKNOWN:
        return start != match["start"]
    try:
        return now - max(each.lstat().st_mtime for each in (path, *path.iterdir())) > _WEEK
    except OSError:  # another one was faster
        return False


@cache
def _machine() -> str:
    """Where process numbers mean the same: a machine since it was started, and a container there."""
    known = [platform.node()]
    with suppress(OSError):
        known.append(Path("/proc/sys/kernel/random/boot_id").read_text("ascii"))
        known.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("|".join(known).encode()).hexdigest()[:8]


def _start(number: int) -> str | None:
    """When a process began, in the system's own count; "" for one that ended, None where it cannot be known."""
    if sys.platform == "linux":
        return _start_on_linux(number)
    try:  # ComfyUI brings it
        import psutil
    except ImportError:
        return None
    try:
        return str(int(psutil.Process(number).create_time() * 1000))
    except psutil.NoSuchProcess:
        return ""
    except psutil.Error:
        return None


def _start_on_linux(number: int) -> str | None:
    try:
        fields = Path(f"/proc/{number}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:  # ended, or another user's on a system that hides these
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return ""
        except (OSError, OverflowError):
            pass
        return None
    return "" if fields[0] in ("Z", "X") else fields[19]
