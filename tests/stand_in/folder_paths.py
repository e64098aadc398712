"""Stand-in for ComfyUI's ``folder_paths``: folders can be named, and hold nothing."""

from __future__ import annotations

models_dir = "models"
supported_pt_extensions = {".ckpt", ".pt", ".pt2", ".bin", ".pth", ".safetensors", ".pkl", ".sft"}
folder_names_and_paths: dict[str, tuple[list[str], set[str]]] = {}


def add_model_folder_path(folder_name: str, full_folder_path: str, is_default: bool = False) -> None:
    paths, _ = folder_names_and_paths.setdefault(folder_name, ([], set()))
    paths.insert(0 if is_default else len(paths), full_folder_path)


def get_folder_paths(folder_name: str) -> list[str]:
    return folder_names_and_paths.get(folder_name, ([], set()))[0]


def get_filename_list(folder_name: str) -> list[str]:
    return []


def get_full_path(folder_name: str, filename: str) -> str | None:
    return None


def get_input_directory() -> str:
    return "input"


def get_input_subfolders() -> list[str]:
    return []
