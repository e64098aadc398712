"""Stand-in for ComfyUI's ``folder_paths``: its folders, which tests point to places of their own, and their lists."""

from __future__ import annotations

import os
from pathlib import Path

models_dir = "models"
input_directory, output_directory, temp_directory, user_directory = "input", "output", "temp", "user"
supported_pt_extensions = {".ckpt", ".pt", ".pt2", ".bin", ".pth", ".safetensors", ".pkl", ".sft"}
folder_names_and_paths: dict[str, tuple[list[str], set[str]]] = {}


def add_model_folder_path(folder_name: str, full_folder_path: str, is_default: bool = False) -> None:
    paths, _ = folder_names_and_paths.setdefault(folder_name, ([], set()))
    paths.insert(0 if is_default else len(paths), full_folder_path)


def get_folder_paths(folder_name: str) -> list[str]:
    return folder_names_and_paths.get(folder_name, ([], set()))[0]


def get_filename_list(folder_name: str) -> list[str]:
    paths, suffixes = folder_names_and_paths.get(folder_name, ([], set()))
    found = {
        str(file.relative_to(path))
        for path in paths
        for file in Path(path).rglob("*")
        if file.suffix.lower() in suffixes
    }
    return sorted(found)


def get_full_path(folder_name: str, filename: str) -> str | None:
    found = (os.path.join(path, filename) for path in get_folder_paths(folder_name))
    return next(filter(os.path.isfile, found), None)


def get_input_directory() -> str:
    return input_directory


def get_output_directory() -> str:
    return output_directory


def get_system_user_directory(name: str = "system") -> str:
    return os.path.join(user_directory, f"__{name}")


def get_input_subfolders() -> list[str]:
    below = (path for path in Path(input_directory).rglob("*") if path.is_dir())
    return sorted(path.relative_to(input_directory).as_posix() for path in below)


def annotated_filepath(name: str) -> tuple[str, str | None]:
    places = {"[output]": output_directory, "[input]": input_directory, "[temp]": temp_directory}
    for ending, place in places.items():
        if name.endswith(ending):
            return name[: -len(ending) - 1], place
    return name, None
