"""Names of files that come through a link, where ComfyUI checks nothing: only those of a loader's list are opened."""

import shutil

import folder_paths
import pytest
import torch
from safetensors.torch import save_file

from comfyui_exemplar.hosts.comfy import folders

LOADERS = {
    "ExemplarLoadDDColor": "ddcolor",
    "ExemplarLoadDEADiff": "deadiff",
    "ExemplarLoadLCAD": "lcad",
    "ExemplarLoadCLIPSeg": "clipseg",
}


@pytest.fixture
def outside(tmp_path):
    """A file and a folder that no loader lists, beside a folder that one does."""
    save_file({"w": torch.zeros(1)}, tmp_path / "secret.safetensors")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "clipseg"}')
    (tmp_path / "listed").mkdir()
    return tmp_path


@pytest.mark.parametrize("node", list(LOADERS))
@pytest.mark.parametrize("name", ["absolute", "upward", "upward folder", "", "..", "nothing", 3, None])
def test_a_name_that_is_not_in_the_list(nodes, outside, monkeypatch, node, name):
    kind = LOADERS[node]
    known = set(folder_paths.supported_pt_extensions)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(outside / "listed")], known))
    isfolder = kind == "clipseg"
    given = {
        "absolute": str(outside / ("model" if isfolder else "secret.safetensors")),
        "upward": "../model" if isfolder else "../secret.safetensors",
        "upward folder": "../listed/../model" if isfolder else "./../secret.safetensors",
    }.get(name, name)
    with pytest.raises(ValueError, match=r": model_name.* expected one of the listed") as refused:
        nodes(node, model_name=given)
    if isinstance(given, str):
        assert f"model_name is {given!r}" in str(refused.value) and f" in models/{kind}" in str(refused.value)


def test_what_is_listed_is_found(tmp_path, monkeypatch):
    listed = tmp_path / "listed"
    (listed / "sub").mkdir(parents=True)
    save_file({"w": torch.zeros(1)}, listed / "sub" / "a.safetensors")
    shutil.copytree(listed / "sub", listed / "network")
    (listed / "network" / "config.json").write_text("{}")
    known = set(folder_paths.supported_pt_extensions)
    for kind in ("ddcolor", "clipseg"):
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(listed)], known))
    assert folders.DDCOLOR.path("sub/a.safetensors") == listed / "sub" / "a.safetensors"
    assert folders.CLIPSEG.path("network") == listed / "network"
