"""The command recolor: colors of edited copies on the photographs' own pixels."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from comfyui_exemplar.color import ab_error, desaturate, luminance, merge_luminance, resize
from comfyui_exemplar.demo import ExampleSettings, example_paths
from comfyui_exemplar.files.pictures import load_picture, save_picture

from ..fixtures.pictures import run, shapes, size_of
from .test_batch_work import Counted

pytest.importorskip("cv2")


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A photograph, gray.png, its drifted copy in color, edit.png, and others."""
    monkeypatch.chdir(tmp_path)
    truth = load_picture(example_paths(ExampleSettings("photo"))[1])[:, 40:240, 60:360]
    gray, larger = desaturate(truth), resize(truth, (210, 315))
    save_picture(truth, tmp_path / "truth.png")
    save_picture(gray, tmp_path / "gray.png")
    save_picture(gray.flip(2), tmp_path / "mirrored.png")
    save_picture(larger[:, 4:196, 9:297], tmp_path / "edit.png")
    save_picture(larger[:, 4:196, 9:297].flip(2), tmp_path / "mirrored_edit.png")
    shapes(64, 48, "L").save("pale.png")
    return tmp_path


def errors(name):
    """Mean error of a result's colors, and of a plain merge's."""
    truth, gray, edit = (load_picture(f"{each}.png") for each in ("truth", "gray", "edit"))
    return float(ab_error(load_picture(name), truth)), float(ab_error(merge_luminance(edit, gray), truth))


class TestRuns:
    def test_one_picture_and_its_sheet(self, pictures, capsys):
        assert run("recolor", "gray.png", "--from", "edit.png") == 0
        assert capsys.readouterr().out.split() == ["gray_recolored.png", "gray_recolored_sheet.png"]
        found, plain = errors("gray_recolored.png")
        assert found < 0.5 * plain
        gray, made = load_picture("gray.png"), load_picture("gray_recolored.png")
        assert made.shape == gray.shape and float((luminance(made) - luminance(gray)).abs().mean()) < 0.3
        width, height = size_of("gray_recolored_sheet.png")
        assert width > 5 * 256 and height > 256

    def test_an_edit_for_each(self, pictures):
        pairs = ("gray.png", "mirrored.png", "--from", "edit.png", "mirrored_edit.png", "--output", "out", "--no-sheet")
        assert run("recolor", *pairs) == 0
        assert sorted(path.name for path in (pictures / "out").iterdir()) == [
            "gray_recolored.png",
            "mirrored_recolored.png",
        ]
        assert run("recolor", "gray.png", "--from", "edit.png", "--output", "alone.png", "--no-sheet") == 0
        assert (pictures / "alone.png").read_bytes() == (pictures / "out" / "gray_recolored.png").read_bytes()
        assert not torch.equal(load_picture("out/mirrored_recolored.png"), load_picture("alone.png"))

    def test_one_edit_for_all_and_settings(self, pictures):
        save_picture(resize(load_picture("gray.png"), (100, 150)), pictures / "small.png")
        both = ("gray.png", "small.png", "--from", "edit.png", "--no-sheet", "--output", "out")
        assert run("recolor", *both, "--motion", "none", "--fallback-below", "0") == 0
        assert size_of("out/small_recolored.png") == (150, 100)
        found, plain = errors("out/gray_recolored.png")
        assert found == pytest.approx(plain, abs=0.5)
        assert run("recolor", *both, "--saturation", "0") == 0
        colors = load_picture("out/gray_recolored.png")
        assert float((colors.amax(-1) - colors.amin(-1)).max()) < 0.02

    def test_depth_and_what_the_file_says(self, pictures):
        image = Image.open("gray.png").convert("L")
        image.save("scan.tif", dpi=(600, 600))
        assert (
            run("recolor", "scan.tif", "--from", "edit.png", "--bits", "16", "--output", "new.tif", "--no-sheet") == 0
        )
        made = Image.open("new.tif")
        assert made.info["dpi"] == (600, 600) and made.size == image.size

    def test_a_fallback(self, pictures):
        """Where the edit shows something else: here its right, which is painted over."""
        edit = load_picture("edit.png")
        edit[:, :, 220:] = torch.tensor([0.1, 0.9, 0.2])
        save_picture(edit, pictures / "painted.png")
        assert run("recolor", "gray.png", "--from", "painted.png", "--fallback", "truth.png", "--no-sheet") == 0
        truth, made = load_picture("truth.png"), load_picture("gray_recolored.png")
        right = (slice(None), slice(20, 180), slice(240, 290))
        plain = merge_luminance(edit, load_picture("gray.png"))
        assert float(ab_error(made[right], truth[right])) < 0.2 * float(ab_error(plain[right], truth[right]))


def test_what_was_found_is_said(pictures, capsys, monkeypatch):
    from comfyui_exemplar.pipelines import transfer

    def noted(*args, **kw):
        return replace(found(*args, **kw), notes=("The edit is mirrored.", "Little of it matches."))

    found = transfer.transfer_colors
    monkeypatch.setattr(transfer, "transfer_colors", noted)
    assert run("recolor", "gray.png", "--from", "edit.png", "--no-sheet") == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert said == ["warning: gray.png: The edit is mirrored.", "warning: gray.png: Little of it matches."]


@pytest.mark.parametrize(("edits", "read"), [(("edit.png",), 6 + 1), (("edit.png", "mirrored_edit.png") * 3, 6 + 6)])
def test_memory_does_not_grow_with_the_number_of_pictures(pictures, monkeypatch, edits, read):
    """One edit for all is read once; of many, one is held."""
    names = [f"{number}.png" for number in range(6)]
    for name in names:
        (pictures / name).write_bytes((pictures / "gray.png").read_bytes())
    counted = Counted(monkeypatch)
    assert run("recolor", *names, "--from", *edits, "--motion", "none", "--no-sheet", "--output", "out") == 0
    assert counted.read == read and len(counted.written) == 6


class TestRefused:
    @pytest.mark.parametrize(
        "options, said",
        [
            (("--from", "pale.png"), "--from pale.png: found no color"),
            (("--from", "edit.png", "edit.png"), "--from names 2 pictures for 1 original(s)"),
            (("--from", "none.png"), "none.png"),
            (("--from", "edit.png", "--fallback", "none.png"), "none.png"),
            (("--from", "edit.png", "--fallback", "truth.png", "truth.png"), "--fallback names 2 pictures"),
            (("--from", "edit.png", "--memory", "none.safetensors"), "none.safetensors does not exist"),
            (("--from", "edit.png", "--model", "none.safetensors"), "none.safetensors does not exist"),
            (("--from", "edit.png", "--memory-top", "3"), "--memory-top: no color memory is asked without a model"),
            (("--from", "edit.png", "--saturation", "9"), "--saturation is 9.0"),
            (("--from", "edit.png", "--output", "edit.png"), "edit.png, which is --from"),
        ],
    )
    def test_in_one_line(self, pictures, capsys, options, said):
        before = {path: path.read_bytes() for path in pictures.iterdir()}
        assert run("recolor", "gray.png", *options) == 1
        lines = [line for line in capsys.readouterr().err.splitlines() if line.strip() and "%|" not in line]
        assert len(lines) == 1 and said in lines[0], lines
        assert {path: path.read_bytes() for path in pictures.iterdir()} == before

    def test_what_was_done_before_is_said(self, pictures, capsys):
        both = ("gray.png", "mirrored.png", "--from", "edit.png", "pale.png", "--no-sheet")
        assert run("recolor", *both) == 1
        assert "--from pale.png: found no color" in (said := capsys.readouterr().err)
        assert "1 of 2 results are written" in said
