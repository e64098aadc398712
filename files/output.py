"""Files that appear under their final name only when they are whole, and destinations checked before work."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: A full disk, a user's share of one, and the largest file that is allowed.
_FULL = tuple(getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name))


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; it gets the final name when the block ends well.

    An older file of the name stays as it was until then, and for good when the block fails.

    :param path: the final name; its folder must exist.
    :returns: an empty file in the same folder with the same suffix.
    :raises OSError: the disk is full; the message names the file. Other errors of the block as they are.
    """
    path = Path(path)
    if path.is_symlink():  # the file that it points to is meant, not the link
        path = path.resolve()
    beside = path.parent / f".writing-{uuid.uuid4().hex}{path.suffix}"
    os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # with the rights of any new file
    try:
        yield beside
        _to_disk(beside)
        if path.exists():
            os.chmod(beside, path.stat().st_mode & 0o777)
        os.replace(beside, path)
    except BaseException as error:
        with suppress(FileNotFoundError):
            beside.unlink()
        if _is_full(error):
            raise OSError(
                f"{path} could not be written, the disk is full; make room, or choose another place. An older file of "
                "that name is as it was."
            ) from error
        raise
    _to_disk(path.parent)


def _is_full(error: BaseException) -> bool:
    """Whether there was no room for a file, as the system says it or as safetensors, which is no Python, does."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return any(f"(os error {number})" in str(error) for number in _FULL)


def _to_disk(path: Path) -> None:
    """Have the system write a file's content, or a folder's names, before anything else happens."""
    if path.is_dir() and os.name == "nt":  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError:
        if not path.is_dir():  # some network drives keep no folders in step; the file's content is there
            raise
    finally:
        os.close(handle)


def check_destination(path: str | Path, suffixes: Iterable[str]) -> Path:
    """``path``, when a file of one of the suffixes can be written there; its folder is made if need be.

    :param path: where a result is to go.
    :param suffixes: what the name may end in, as ".png"; capitals do not matter.
    :raises ValueError: another suffix, a folder of that name, a file where the folder should be, no right to write.
    :raises FileNotFoundError: the folder cannot be made.
    """
    path, known = Path(path), tuple(suffixes)
    if path.suffix.lower() not in known:
        found = f"ends in {path.suffix!r}" if path.suffix else "has no suffix"
        raise ValueError(
            f"{path} {found}; give a name that ends in {', '.join(known[:-1])}{' or ' * (len(known) > 1)}{known[-1]}."
        )
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the name of a file.")
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(
            f"{folder} is no folder, so {path.name} cannot be written there; choose another place."
        ) from error
    except OSError as error:
        raise FileNotFoundError(
            f"The folder {folder} is not there and cannot be made ({error}); choose another place."
        ) from error
    target = path if path.exists() else folder
    if not os.access(folder, os.W_OK | os.X_OK) or not os.access(target, os.W_OK):
        raise ValueError(f"{target} may not be written to; change its rights or choose another place.")
    return path
