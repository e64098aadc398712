"""Picture files in ComfyUI's own folders: which there are, where a chosen one is, and names for new ones."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import folder_paths

from ...files.output import is_device, try_folder
from ...files.pictures import READ
from ...settings import shown

#: Bytes of a name; file systems take 255, with number and suffix.
_LONGEST = 240

#: What is raised for a name that is not one of the listed.
UNLISTED = (ValueError, FileNotFoundError)


def files(folder: Path | None = None) -> list[str]:
    """Names of the picture files in a folder, by default ComfyUI's input folder."""
    folder = folder or Path(folder_paths.get_input_directory())
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if _is_picture(path))


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in READ and not path.name.startswith(".") and path.is_file()


def _listed(base: Path, name: str) -> Path | None:
    """What a name stands for in a folder, each part of it spelled as its folder's own list has it; None for all else.

    So nothing outside is ever looked at, however a system reads dots, drives, spaces at the end and capitals.

    :raises ValueError: it leads out of the folder, by itself or by a link.
    """
    parts = name.replace(os.sep, "/").split("/")
    out = ValueError(f"{shown(name, 200)} leads out of ComfyUI's folders; choose or upload a file.")
    if os.pardir in parts or os.path.isabs(name) or os.path.splitdrive(name)[0]:
        raise out
    place = base
    for part in parts:
        if not place.is_dir() or part not in os.listdir(place):
            return None
        place = place / part
        if not place.resolve().is_relative_to(base):
            raise out
    return place


def check(name: str | None) -> bool | str:
    """ComfyUI's verdict on a chosen file before anything runs; a linked one is not known yet and comes as None."""
    try:
        return name is None or bool(path_of(name))
    except UNLISTED as error:
        return str(error)


def path_of(name: str) -> Path:
    """Where a chosen file is: in the input folder, or in the one that stands behind it in brackets.

    :raises ValueError: it leads out of ComfyUI's folders, or is a folder.
    :raises FileNotFoundError: there is none.
    """
    plain, chosen = folder_paths.annotated_filepath(str(name))
    path = _listed(Path(chosen or folder_paths.get_input_directory()).resolve(), plain)
    if path is not None and path.is_dir():
        raise ValueError(f"{shown(name, 200)} is a folder; choose a file in it.")
    if path is None or not _is_picture(path):
        raise FileNotFoundError(
            f"There is no {shown(name, 200)} among the pictures of ComfyUI's input folder; choose another file or "
            "upload it."
        )
    return path


def folders() -> list[str]:
    """Names of the folders within ComfyUI's input folder."""
    return folder_paths.get_input_subfolders()


def check_folder(name: str | None) -> bool | str:
    """ComfyUI's verdict on a chosen folder before anything runs."""
    try:
        return name is None or bool(files_of(name))
    except UNLISTED as error:
        return str(error)


def files_of(name: str) -> list[Path]:
    """The picture files of a folder within the input folder, by name.

    :raises ValueError: it leads out of the input folder, or holds no pictures.
    :raises FileNotFoundError: there is none.
    """
    base = Path(folder_paths.get_input_directory()).resolve()
    try:
        folder = _listed(base, str(name))
    except ValueError:
        raise ValueError(
            f"{shown(name, 200)} is no folder within ComfyUI's input folder; choose one of those."
        ) from None
    if folder is None or not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {shown(name, 200)} in ComfyUI's input folder; choose another one.")
    found = [path for file in files(folder) if (path := folder / file).resolve().is_relative_to(base)]
    if not found:
        raise ValueError(f"The folder {shown(name, 200)} holds no pictures; put some there, or choose another one.")
    return found


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


def check_prefix(prefix: str | None) -> bool | str:
    """ComfyUI's verdict on what names begin with before anything runs; a linked one comes as None."""
    try:
        if prefix is not None:
            _check_place(prefix)
    except (ValueError, OSError) as error:
        return str(error)
    return True


def _check_place(prefix: str) -> Path:
    """The output folder, when files whose names begin so can be written there.

    Folders that are missing stay so: their names may be still to be filled in.

    :raises ValueError: the prefix leads out of the output folder, or to a folder that may not be written to.
    :raises OSError: the disk is full, or the output folder cannot be made.
    """
    base = Path(folder_paths.get_output_directory()).resolve()
    asked = f"The filename_prefix {prefix!r}"
    if "\0" in prefix:
        raise ValueError(f"{asked} has a character that no file name can have; give a name, or a/name.")
    place = Path(os.path.realpath(base / prefix))
    if not place.is_relative_to(base) or place == base or prefix.endswith(("/", os.sep)):
        raise ValueError(f"{asked} leads out of ComfyUI's output folder, or is no name; give a name, or a/name.")
    device = next(filter(is_device, Path(prefix).parts), None)
    if device is not None:
        raise ValueError(f"{asked} has the name {device!r}, a device's on Windows; give another one.")
    longest = max(len(os.fsencode(part)) for part in Path(prefix).parts)
    if longest > _LONGEST:
        raise ValueError(f"{asked} has a name of {longest} bytes; names have at most {_LONGEST}, give a shorter one.")
    folder = place.parent
    while folder != base and not os.path.lexists(folder):
        folder = folder.parent
    try:
        try_folder(folder, prefix)
    except ValueError as error:
        raise ValueError(f"{asked} cannot be used: {error}") from error
    return base


def destination(prefix: str, width: int, height: int) -> tuple[Path, str, int, str]:
    """Folder, beginning of the names, first free number, and the folder's name within the output folder.

    :raises ValueError: the prefix leads out of the output folder, or to a folder that may not be written to.
    :raises OSError: the disk is full, or a folder cannot be made.
    """
    base = _check_place(prefix)
    try:
        folder, stem, number, inside, _ = folder_paths.get_save_image_path(prefix, str(base), width, height)
    except OSError as error:  # a folder whose name was still to be filled in
        raise ValueError(
            f"The filename_prefix {prefix!r} cannot be used ({error.strerror}: {error.filename}); give another one."
        ) from error
    try_folder(Path(folder), stem)
    return Path(folder), stem, number, inside


def workflow_of(hidden: Any) -> dict[str, str]:
    """Prompt and workflow as Save Image writes them; nothing where ComfyUI was started with --disable-metadata."""
    from comfy.cli_args import args

    if args.disable_metadata or hidden is None:
        return {}
    found = {"prompt": hidden.prompt, **(hidden.extra_pnginfo or {})}
    return {name: json.dumps(value) for name, value in found.items() if value is not None}
