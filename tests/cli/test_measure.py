"""The command measure: which pictures belong together, the table, and what is refused before any work."""

import json

import pytest

from comfyui_exemplar.files.pictures import load_picture, save_picture
from comfyui_exemplar.pipelines.measure import Measuring, Pair

from ..fixtures.pictures import run
from ..pipelines.test_measure import blobs


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, seed in (("out", 0), ("ref", 20), ("gt", 40), ("in", 60)):
        (tmp_path / name).mkdir()
        for number in range(3):
            called = f"{number:03}_colored.png" if name == "out" else f"{number:03}.{'jpg' if name == 'ref' else 'png'}"
            save_picture(blobs(seed + number), tmp_path / name / called)
    save_picture(blobs(9, 90, 30), tmp_path / "out" / "000_colored_sheet.png")
    return tmp_path


def test_the_table(folder, capsys):
    options = ("--reference", "ref", "--truth", "gt", "--input", "in", "--json", "sub/m.json", "--plot", "m.png")
    assert run("measure", "out", *options) == 0
    said = capsys.readouterr()
    assert said.out.startswith("3 pictures\nmeasure ") and "FID and SI-FID are left out" in said.out
    measuring = Measuring()
    for number in range(3):
        beside = {
            name: load_picture(f"{place}/{number:03}.{suffix}")
            for name, place, suffix in (("reference", "ref", "jpg"), ("truth", "gt", "png"), ("gray", "in", "png"))
        }
        measuring.add(Pair(f"{number:03}_colored.png", load_picture(f"out/{number:03}_colored.png"), **beside))
    expected = measuring.result()
    content = json.loads((folder / "sub/m.json").read_text("utf-8"))
    assert list(content["pictures"]) == list(expected.names)
    assert {key: each["defined"] for key, each in content["measures"].items()} == {
        row.metric.key: row.defined for row in expected.rows
    }
    assert load_picture("m.png").shape[2] == 900


def test_one_reference_for_all(folder, capsys):
    assert run("measure", "out/001_colored.png", "out/002_colored.png", "--reference", "ref/000.jpg") == 0
    assert "HIS" in capsys.readouterr().out


def test_frames(folder, capsys):
    assert run("measure", "out", "gt", "in", "--frames") == 1
    assert "expected one of a name" in capsys.readouterr().err
    assert run("measure", "out", "gt", "--frames") == 0
    assert "CDC" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("nothing",), "nothing does not exist; look at what is named after OUTPUTS"),
        (("empty",), "found no picture in this folder, named after OUTPUTS"),
        (("out", "--truth", "empty"), "found no picture in this folder, named after --truth"),
        (("out", "gt", "--truth", "gt", "--reference", "few"), "--reference: found no picture for 4 of 6 outputs (001"),
        (("out", "--truth", "twice"), "expected one picture of a name"),
        (("out", "--truth", "small"), "found 24 x 20 pixels, expected 48 x 40"),
        (("out", "--input", "small"), "--input small/000.png: found 24 x 20"),
        (("out", "--frames"), "--frames: found 3 picture(s), expected at least 5"),
        (("out", "--weights", "nothing"), "nothing does not exist; name a folder with files of weights"),
        (("out", "--json", "gt/000.png"), ".json"),
        (("out", "--json", "mine.json"), "mine.json holds no measures of ours"),
    ],
)
def test_refusals(folder, capsys, options, said):
    (folder / "empty").mkdir()
    (folder / "mine.json").write_text("{}")
    for name in ("few", "twice", "small"):
        (folder / name).mkdir()
    save_picture(blobs(1), folder / "few" / "000.png")
    for number in range(3):
        save_picture(blobs(number, 20, 24), folder / "small" / f"{number:03}.png")
        for suffix in ("png", "jpg"):
            save_picture(blobs(number), folder / "twice" / f"{number:03}.{suffix}")
    assert run("measure", *options) == 1
    error = capsys.readouterr().err
    assert said in error and len([line for line in error.splitlines() if line.startswith("error")]) == 1
