"""The command reproduce: both methods, the table beside the paper's, going on, and whose results a folder holds."""

import json

import pytest
import torch

from comfyui_exemplar.files.pictures import load_picture, save_picture
from comfyui_exemplar.pipelines.measure import Measuring, Pair
from comfyui_exemplar.pipelines.reproduce import MADE, PAPER, begin, beside_paper

from ..fixtures.pictures import run, shapes
from ..pipelines.test_measure import blobs

FEW = ("--depth", "1", "--passes", "1", "--resolution", "64", "--steps", "20")


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("input", "reference"):
        (tmp_path / name).mkdir()
        for number in range(2):
            shapes(64, 64).rotate(90 * number).save(tmp_path / name / f"{number:03}.png")
    return tmp_path


def reproduce(*options):
    return run("reproduce", "exemplar", "--data", ".", *FEW, *options)


def test_both_methods_and_going_on(data, capsys):
    assert reproduce() == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    heads = next(line for line in lines if line.startswith("as published  "))
    assert heads.split()[2:] == ["the", "paper", "attention", "memory"]
    assert lines[-2:] == [
        "The paper's are of 335 pairs, ours of 2.",
        "FID falls with the number of pictures: of another number it does not compare.",
    ]
    assert "FID and SI-FID are left out: no folder of weights is named; get " in said.out
    made = json.loads((data / "output" / MADE).read_text("utf-8"))["made"]
    assert made["method"] == "attention" and made["settings"]["postprocess"] == "official"
    first = {path: path.stat().st_mtime_ns for path in data.glob("output*/*.png")}
    assert len(first) == 4 and all(load_picture(path).shape == (1, 64, 64, 3) for path in first)
    kept = {path: load_picture(path) for path in first}
    (data / "output" / "001.png").unlink()
    assert reproduce() == 0
    again = capsys.readouterr()
    assert again.out == said.out
    assert "attention: 1 of 2 are there already." in again.err and "memory: 2 of 2 are there already." in again.err
    later = {path: path.stat().st_mtime_ns for path in data.glob("output*/*.png")}
    assert [path.name for path in first if later[path] != first[path]] == ["001.png"]
    assert all(torch.equal(load_picture(path), picture) for path, picture in kept.items())


def test_other_settings_are_another_run(data, capsys):
    assert reproduce("--method", "memory", "--output", "made") == 0
    assert (data / "made-memory" / "000.png").exists() and not (data / "made").exists()
    assert reproduce("--method", "attention") == 0
    capsys.readouterr()
    assert run("reproduce", "exemplar", "--data", ".", *FEW[:-1], "30", "--method", "attention") == 1
    assert "holds results of another run (settings.steps is `20`, now `30`)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "reference" / "001.png").unlink(), "--data: found no picture for 1 of 2 outputs"),
        (lambda folder: (folder / "input").rename("in"), "input does not exist"),
        (
            lambda folder: (folder / "output").mkdir() or save_picture(blobs(1), folder / "output" / "001.png"),
            "001.png is there already, and nothing says what made it",
        ),
    ],
)
def test_refusals(data, capsys, change, said):
    change(data)
    assert reproduce("--method", "attention") == 1
    assert said in capsys.readouterr().err


def test_notes_of_others(tmp_path):
    begin(tmp_path, {"a": (1, 2), "b": {"c": 3}}, [])
    begin(tmp_path, {"a": (1, 2), "b": {"c": 3}}, [])
    with pytest.raises(ValueError, match=r"a is `\[1, 2\]`, now not said; b\.c is `3`, now `4`"):
        begin(tmp_path, {"b": {"c": 4}}, [])
    (tmp_path / MADE).write_text("{}")
    with pytest.raises(ValueError, match="is no note of this command"):
        begin(tmp_path, {}, [])


def test_the_papers_numbers_are_beside_ours():
    measuring = Measuring()
    measuring.add(Pair("1.png", blobs(1), blobs(2)))
    text = beside_paper({"attention": measuring.result()})
    assert "HIS" in text and "ours of 1" in text and PAPER == {"fid_reference": 95.27, "si_fid": 5.51}
