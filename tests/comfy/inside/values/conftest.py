"""Fixtures of the tests of what comes through links."""

import folder_paths
import pytest
import torch

from .right import Right


@pytest.fixture(scope="session")
def right(tmp_path_factory):
    """Right inputs for every node; ComfyUI's folders are in a folder of the tests' own meanwhile."""
    names = ("input_directory", "output_directory", "temp_directory")
    before = {name: getattr(folder_paths, name) for name in names}
    known = {name: (list(paths), kinds) for name, (paths, kinds) in folder_paths.folder_names_and_paths.items()}
    with torch.inference_mode():
        yield Right(tmp_path_factory.mktemp("comfy"))
    for name, value in before.items():
        setattr(folder_paths, name, value)
    folder_paths.folder_names_and_paths.update(known)
