"""The doctor inside ComfyUI: all good on the embedded model, nothing private in its JSON, canceled within a step."""

import getpass
import json
from pathlib import Path

import comfy.model_management
import folder_paths
import pytest
import torch

from comfyui_exemplar.hosts.comfy import doctor as host

from .models import FlatVAE, prompt, text_encoder, tiny

mm = comfy.model_management


@pytest.fixture
def output(tmp_path):
    before = {name: getattr(folder_paths, f"get_{name}_directory")() for name in ("output", "temp")}
    for name in before:
        (tmp_path / name).mkdir()
        getattr(folder_paths, f"set_{name}_directory")(str(tmp_path / name))
    yield tmp_path / "output"
    for name, path in before.items():
        getattr(folder_paths, f"set_{name}_directory")(path)


def written(output):
    (path,) = sorted((output / "exemplar_doctor").glob("*.json"))
    return path.read_text("utf-8")


def verdicts(text):
    return {(c["group"], c["name"]): c["verdict"] for c in json.loads(text)["checks"]}


def test_everything_is_good_on_the_embedded_model(nodes, embedded, output):
    """The same numbers as on the command line, where they were recorded."""
    report, table, sheet = nodes("ExemplarDoctor", quick=True, embedded=True)
    text = written(output)
    print(report)
    found = verdicts(text)
    assert set(found.values()) == {"good"}, [c for c in json.loads(text)["checks"] if c["verdict"] != "good"]
    assert len([1 for group, _ in found if group == "embedded"]) == 8
    for picture in (table, sheet):
        assert picture.ndim == 4 and picture.shape[-1] == 3 and picture.shape[1] > 100
        assert picture.isfinite().all() and 0 <= float(picture.min()) and float(picture.max()) <= 1
    facts = json.loads(text)["environment"]
    assert facts["host"] == "ComfyUI" and {"comfyui", "attention", "vram state", "torch", "pack"} <= set(facts)
