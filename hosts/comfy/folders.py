"""Where ComfyUI keeps a system's weight files: a folder of the system's own, then one that all checkpoints share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import folder_paths


def register(folder: str) -> None:
    """Make ``models/<folder>`` known to ComfyUI, beside the folders that its user may have added under that name."""
    folder_paths.add_model_folder_path(folder, str(Path(folder_paths.models_dir) / folder))
    paths, suffixes = folder_paths.folder_names_and_paths[folder]
    folder_paths.folder_names_and_paths[folder] = (paths, set(suffixes) | folder_paths.supported_pt_extensions)


def list_files(folders: Sequence[str]) -> list[str]:
    """Names of the files of the first folder, then of those that only the next ones have."""
    return list(dict.fromkeys(name for folder in folders for name in folder_paths.get_filename_list(folder)))


def find(name: str, folders: Sequence[str]) -> str | None:
    """Path of a file in the first folder that has it."""
    paths = (folder_paths.get_full_path(folder, name) for folder in folders)
    return next((path for path in paths if path is not None), None)


def not_there(name: str, folders: Sequence[str]) -> str:
    """The first sentence about a file that is in none of the folders: what was asked for, and what is there."""
    found = list_files(folders)
    there = f"there are {', '.join(found[:5])}{' ...' if len(found) > 5 else ''}" if found else "they are empty"
    return f"There is no '{name}' in models/{' or models/'.join(folders)} ({there})."
