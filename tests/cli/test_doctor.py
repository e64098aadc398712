"""The command doctor: what it says, returns and writes."""

import json
import re

import pytest
import torch

from ..fixtures.ddcolor import small_weights
from ..fixtures.deadiff import save_small
from ..fixtures.pictures import run

pytestmark = pytest.mark.slow

OFF = ("--no-embedded-files", "--quick")


def verdicts(path):
    return {(c["group"], c["name"]): c["verdict"] for c in json.loads(path.read_text("utf-8"))["checks"]}


@pytest.fixture
def weights(folder):
    torch.save({"params": small_weights()}, folder / "ddcolor.pth")
    save_small(folder / "deadiff.safetensors")
    return {"--ddcolor": folder / "ddcolor.pth", "--deadiff": folder / "deadiff.safetensors"}


def test_every_system_gives_what_was_recorded(folder, capsys):
    report = folder / "report.json"
    assert run("doctor", "--json", report, "--sheet", folder / "sheet.png") == 0
    assert set(verdicts(report).values()) == {"good"} and (folder / "sheet.png").is_file()
    out = capsys.readouterr().out
    assert "12 good" in out and str(report) in out


def test_random_weights_are_looked_at_and_a_broken_file_fails_alone(folder, weights, capsys):
    """Nothing of the folder is told, and the others go on."""
    report, broken = folder / "report.json", folder / "broken.safetensors"
    broken.write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    given = [part for pair in weights.items() for part in pair]
    assert run("doctor", *OFF, "--model", broken, *given, "--json", report) == 1
    caught = capsys.readouterr()
    assert re.search(r"error: 1 of \d+ checks failed: checkpoint: file\.", caught.err)
    found = verdicts(report)
    assert found["checkpoint", "file"] == "failed" and found["checkpoint", "bypass"] == "not_run"
    assert found["DDColor", "coloring"] == "look" and found["DEADiff", "tokens"] == "good"
    assert str(folder) not in report.read_text("utf-8") and "broken.safetensors" in report.read_text("utf-8")


def test_another_family_is_named(folder, capsys):
    from safetensors.torch import save_file

    flux = {
        "double_blocks.0.img_attn.qkv.weight": torch.zeros(8, 8),
        "single_blocks.0.linear1.weight": torch.zeros(8, 8),
    }
    save_file(flux, folder / "flux.safetensors")
    assert run("doctor", *OFF, "--model", folder / "flux.safetensors", "--json", folder / "r.json") == 1
    (check,) = [c for c in json.loads((folder / "r.json").read_text())["checks"] if c["verdict"] == "failed"]
    assert "Flux" in check["note"]


def test_the_embedded_model_as_a_checkpoint(folder):
    from comfyui_exemplar.demo import model_path

    assert run("doctor", *OFF, "--model", model_path(), "--json", folder / "r.json") == 0
    found = verdicts(folder / "r.json")
    assert {name for group, name in found if group == "checkpoint" and found[group, name] != "good"} <= {
        "half beside single precision"
    }


def test_other_files_are_not_replaced(folder, capsys):
    (folder / "other.json").write_text("{}")
    assert run("doctor", *OFF, "--json", folder / "other.json") == 1
    assert "is no report of the doctor" in capsys.readouterr().err
    assert run("doctor", *OFF, "--json", folder / "other.txt") == 1
    assert run("doctor", *OFF) == 0


@pytest.mark.parametrize("option", ["--ddcolor", "--lcad", "--deadiff"])
def test_a_folder_is_no_file(option, folder, capsys):
    """Only Stable Diffusion comes as a folder."""
    assert run("doctor", *OFF, option, folder) == 1
    said = capsys.readouterr().err
    assert f"is a folder; {option} wants a file" in said
