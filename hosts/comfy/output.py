"""Where nodes save: names in ComfyUI's output folder, tried before any work, and the workflow that goes along."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import folder_paths

from ...files.output import is_device, try_folder

#: Bytes of a name; file systems take 255, with number and suffix.
_LONGEST = 240


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
