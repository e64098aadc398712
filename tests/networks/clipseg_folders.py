"""Folders of a tiny CLIPSeg that are wrong in some place, and what loading one comes to."""

import copy
import json
import shutil
import socket

import huggingface_hub
import pytest
import torch

from comfyui_exemplar.networks.clipseg.load import load_referring

from ..fixtures.clipseg import save

GONE = object()
NAN, INFINITE = float("nan"), float("inf")


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


#: In place of a number, a word, a list or a switch.
ODD = {
    "missing": GONE,
    "null": None,
    "text": "abc",
    "digits": "16",
    "negative": -1,
    "zero": 0,
    "huge": 10**12,
    "endless": 10**400,
    "half": 2.5,
    "NaN": NAN,
    "infinite": INFINITE,
    "on": True,
    "list": [1, 2],
    "object": {"a": 1},
    "nested": nested(40),
}
PHRASES = ["red cup", "a hat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("clipseg") / "tiny")


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copied")


@pytest.fixture(scope="module")
def plain(folder):
    return scores(load_referring(folder))


@pytest.fixture
def offline(monkeypatch):
    """Any look at the network fails the test."""

    def reached(*asked, **_):
        pytest.fail(f"reached for the network: {asked}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, reached)
    monkeypatch.setattr(socket, "getaddrinfo", reached)
    for name in ("snapshot_download", "hf_hub_download", "model_info", "list_repo_files", "HfApi.repo_info"):
        owner = huggingface_hub.HfApi if name.startswith("HfApi") else huggingface_hub
        monkeypatch.setattr(owner, name.rpartition(".")[2], reached)


def scores(loaded):
    image = torch.rand(1, 48, 48, 3, generator=torch.Generator().manual_seed(5))
    return loaded.scores(image, PHRASES)


def transformers_scores(folder, side=48):
    """What transformers itself makes of the folder."""
    from transformers import CLIPSegForImageSegmentation, CLIPTokenizer

    network = CLIPSegForImageSegmentation.from_pretrained(folder, local_files_only=True).eval()
    tokens = CLIPTokenizer.from_pretrained(folder, local_files_only=True)(PHRASES, padding=True, return_tensors="pt")
    image = torch.rand(1, side, side, 3, generator=torch.Generator().manual_seed(5))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = ((image - mean) / std).movedim(-1, 1).repeat(2, 1, 1, 1)
    with torch.no_grad():
        return network(pixel_values=pixels, **tokens).logits[None]


def outcome(folder, *named):
    """Loaded, or refused in a sentence that names the folder or the file and one of some words."""
    try:
        return load_referring(folder)
    except ValueError as error:
        said = str(error)
        # numbers of endless digits and nests without end are refused when the file is read
        assert str(folder) in said and any(word in said for word in (*named, "nested", "digits")), said
        assert "\n" not in said and len(said) < 700, said
        assert "Traceback" not in said, said
        assert said.endswith(".") and any(word in said for word in ("ownload", "get the", "get it", "put one")), said
        return None


def changed(content, keys, value):
    content = copy.deepcopy(content)
    place = content
    for key in keys[:-1]:
        place = place[key]
    if value is GONE:
        place.pop(keys[-1], None)
    else:
        place[keys[-1]] = value
    return content


def written(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")
