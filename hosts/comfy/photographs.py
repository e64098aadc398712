"""Picture files in ComfyUI's own folders: which there are, and where a chosen one is."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from ...files.pictures import READ
from ...settings import shown

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
