"""Files that appear under their final name only when they are whole, and destinations tried before work."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from . import writers

#: A full disk, a user's share of one, and the largest file that is allowed.
_FULL = tuple(getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name))

#: What Windows takes for a device, whatever stands behind a dot: opening such a name opens no file.
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3]) *(\..*)?", re.IGNORECASE)


def is_device(name: str) -> bool:
    """Whether the name of a file or folder is a device's on Windows, such as ``nul`` and ``com1.safetensors``.

    They are refused in names that travel with workflows on every system alike.
    """
    return _DEVICE.fullmatch(name) is not None


@contextmanager
def whole(path: str | Path, *, new: bool = False) -> Iterator[Path]:
    """A temporary path to write to; it gets the final name when the block ends well.

    An older file of the name stays as it was until then, and for good when the block fails. The temporary path lies in
    a folder of this writer's own beside the final name, so that several writers of one name do not meet; what writers
    that were killed left there is removed (:mod:`.writers`).

    :param path: the final name; its folder must exist.
    :param new: never replace a file, whoever made it.
    :returns: an empty file of the same suffix.
    :raises FileExistsError: with ``new``, there is a file of the name when the block ends.
    :raises OSError: it cannot be written; the message names the file and says why. Other errors of the block as they
        are.
    """
    path = Path(path)
    if not new and path.is_symlink():  # where it leads is meant, not the link
        path = Path(os.path.realpath(path))
    place = None
    try:
        place = writers.new_folder(path.parent)
        writers.clean(place)
        beside = place / f"writing{path.suffix}"  # a folder may be searched for the final name
        os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        rights = beside.stat().st_mode & 0o777  # of any new file
        yield beside
        with suppress(FileNotFoundError):
            rights = path.stat().st_mode & 0o777
        with suppress(PermissionError):  # some drives know no rights
            os.chmod(beside, rights)
        _to_disk(beside)
        _name(beside, path, new)
    except Exception as error:
        reason = "" if isinstance(error, FileExistsError) and new else _reason(error)
        if reason:
            raise OSError(f"{path} could not be written: {reason}. An older file of that name is as it was.") from error
        raise
    finally:
        if place is not None:
            shutil.rmtree(place, ignore_errors=True)
    with suppress(OSError):  # some network drives keep no folders in step; the file's content is there
        _to_disk(path.parent)


def _name(beside: Path, path: Path, new: bool) -> None:
    """Give a file its final name.

    :raises FileExistsError: ``new``, and there is one.
    """
    if not new:
        os.replace(beside, path)
    elif os.name == "nt":
        os.rename(beside, path)  # refuses where there is one
    else:
        try:
            os.link(beside, path)
        except FileExistsError:
            raise
        except OSError:  # a drive without second names: taken by an empty file for an instant
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            os.replace(beside, path)


def is_full(error: BaseException) -> bool:
    """Whether an error, or what it came from, says that the disk is full: then no other file can be written either."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _FULL:
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _reason(error: Exception) -> str:
    """Why a file could not be written; "" where the error says something else."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return "the disk is full; make room, or choose another place"
    if any(f"(os error {number})" in str(error) for number in _FULL):  # safetensors, which is no Python
        return "the disk is full; make room, or choose another place"
    if isinstance(error, OSError):
        said = error.strerror or str(error) or type(error).__name__
        return f"{said[:1].lower()}{said[1:]}; look at the place and its rights, or choose another"
    return ""


def _to_disk(path: Path) -> None:
    """Have the system write a file's content, or a folder's names, before anything else happens."""
    if path.is_dir() and os.name == "nt":  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_suffix(path: str | Path, suffixes: Iterable[str], hint: str = "") -> None:
    """Refuse a name of another kind of file.

    :param suffixes: what the name may end in, as ".png"; capitals do not matter.
    :param hint: a sentence on what else may have been meant.
    :raises ValueError: it ends in something else, or has no suffix.
    """
    suffix, known = Path(path).suffix, tuple(suffixes)
    if suffix.lower() in known:
        return
    found = f"ends in {suffix!r}" if suffix else "has no suffix"
    expected = f"{', '.join(known[:-1])}{' or ' * (len(known) > 1)}{known[-1]}"
    raise ValueError(f"{path} {found}; give a name that ends in {expected}. {hint}".strip())


def check_destination(path: str | Path, suffixes: Iterable[str]) -> Path:
    """``path``, when a file of one of the suffixes can be written there; see :func:`check_destinations`."""
    check_destinations([path], suffixes)
    return Path(path)


def check_destinations(paths: Iterable[str | Path], suffixes: Iterable[str]) -> None:
    """Whether files of some suffixes can be written to some places, tried in each folder.

    Folders are made if need be; nothing else stays.

    :param paths: where results are to go.
    :param suffixes: see :func:`check_suffix`.
    :raises ValueError: another suffix, a folder of that name, a file where the folder should be, no right to write, a
        name that the system does not allow.
    :raises FileNotFoundError: a folder cannot be made.
    :raises OSError: the disk is full.
    """
    suffixes, tried = tuple(suffixes), set[Path]()
    for path in map(Path, paths):
        check_suffix(path, suffixes)
        if os.path.islink(path):
            path = Path(os.path.realpath(path))  # where it leads is written to
        _check_file(path)
        if path.parent not in tried:
            try_folder(path.parent, path.name)
            tried.add(path.parent)


def _check_file(path: Path) -> None:
    """Refuse what stands under a name and is not to be replaced, and names that no file can have."""
    try:
        exists = path.exists()
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:  # ValueError: a zero byte
        said = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"{path} cannot be the name of a file ({said}); choose another one.") from error
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the name of a file.")
    if exists and not path.is_file():
        raise ValueError(f"{path} is no ordinary file and is not replaced; choose another name.")
    if exists and not os.access(path, os.W_OK):
        raise ValueError(f"{path} may not be written to; change its rights or choose another place.")


def try_folder(folder: Path, name: str) -> None:
    """Make a folder if need be, and try whether a file can be written there.

    :param name: of the file that is to be written, for the message.
    :raises ValueError: no folder, or no right to write to it.
    :raises FileNotFoundError: it cannot be made.
    :raises OSError: the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"{folder} is no folder, so {name} cannot be written there; choose another place.") from error
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"The folder {folder} is not there and cannot be made ({error}); choose another place."
        ) from error
    try:
        place = writers.new_folder(folder)
        try:
            (place / "tried").write_bytes(b"tried")
        finally:
            shutil.rmtree(place, ignore_errors=True)
    except OSError as error:
        if error.errno in _FULL:
            raise OSError(f"{folder / name} could not be written: {_reason(error)}.") from error
        raise ValueError(
            f"{folder} may not be written to ({error.strerror}); change its rights or choose another place."
        ) from error
