"""ComfyUI's folders of embeddings: where one of a name is, where a learned one goes, and that its name is free."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import folder_paths

from ...files.embeddings import HEADER, embedding_path
from ...files.owned import OwnPlace
from ...pipelines.vct_concept import MAKER

#: What ComfyUI puts behind a name in a prompt, besides nothing.
_ENDINGS = ("", ".safetensors", ".pt", ".bin")


def check(name: str | None) -> bool | str:
    """ComfyUI's verdict on a name before anything runs; a linked one is not known yet and comes as None."""
    try:
        if name is not None:
            place(name)
    except (ValueError, OSError) as error:
        return str(error)
    return True


def place(name: str) -> OwnPlace:
    """Where a concept of a name is learned to.

    :raises ValueError: no name of an embedding, or a file of another program is in its place, or would be found by the
        same name in a prompt.
    :raises OSError: the folder cannot be made or written to.
    """
    folders = [Path(folder) for folder in folder_paths.get_folder_paths("embeddings")]
    if not folders:
        raise ValueError("ComfyUI has no folder for embeddings; name one in its configuration.")
    found = OwnPlace(embedding_path(folders[0], name), HEADER, MAKER)
    for other in _of_name(folders, name):
        if not (found.path.exists() and other.samefile(found.path)):
            raise ValueError(
                f"A prompt that says embedding:{name} would find {other}, which is another file and is not replaced; "
                "choose another name, or move that file away."
            )
    return found


def embedding_file(name: str, folders: list[str]) -> Path | None:
    """Where an embedding of a name is, below any of some folders, with or without its ending; None where it is not."""
    import comfy.sd1_clip

    for folder in map(Path, comfy.sd1_clip.expand_directory_list(folders)):
        listed = set(os.listdir(folder)) if folder.is_dir() else ()
        for ending in _ENDINGS:
            if f"{name}{ending}" in listed and (path := folder / f"{name}{ending}").is_file():
                return path
    return None


def _of_name(folders: list[Path], name: str) -> Iterator[Path]:
    """The files that ComfyUI looks for under a name: in all folders, and in the folders within."""
    for folder in folders:
        for within, _, files in os.walk(folder, followlinks=True):
            yield from (Path(within, name + ending) for ending in _ENDINGS if name + ending in files)
