"""Batches: names of results, and what is refused before a model is loaded."""

import os

import pytest
from PIL import Image

from comfyui_exemplar.cli import names
from comfyui_exemplar.files.pictures import load_picture
from comfyui_exemplar.files.pictures import picture_size as size_from_header

from ..fixtures.pictures import run, shapes, size_of

SMALL = ("--resolution", "32")


@pytest.fixture
def no_model(monkeypatch):
    """None of these may get as far as a model."""
    from comfyui_exemplar.hosts.diffusers import checkpoint, lcad, vct_text
    from comfyui_exemplar.networks.ddcolor import load

    def refuse(*_, **__):
        raise AssertionError("a model was loaded")

    for module, name in (
        (load, "load_ddcolor"),
        (checkpoint, "load_standalone"),
        (lcad, "load_lcad"),
        (vct_text, "load_concept_text"),
    ):
        monkeypatch.setattr(module, name, refuse)


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestRefusedBeforeAModelIsLoaded:
    @pytest.mark.parametrize(
        "command, expected",
        [
            ("auto scan.png scan.tif", "scan.png and the result of scan.tif would have the same file name"),
            ("auto scan.png scan.tif --output out/", "scan_colored.png"),
            ("auto gray.png sub/gray.png --output out/", "the same file name"),
            ("auto gray.png sub/../gray.png --output out/", "named twice"),
            ("auto a.png a_colored.png", "a_colored.png, the result of a.png, would replace a_colored.png"),
            ("auto a.png --output a.png", "a.png, the result of a.png, would replace a.png, which is an input"),
            ("colorize a.png --reference b.png --output b.png", "would replace b.png, which is --reference"),
            ("colorize b.png b_colored_sheet.png --reference a.png", "the sheet of b.png, would replace"),
            ("colorize b.png --reference b_colored_sheet.png", "would replace b_colored_sheet.png, which is --refer"),
            ("describe a.png --prompt cat --region cat=b.png --output b.png", "which is --region cat"),
            ("translate a.png --reference b.png --save-concept x.pt", "x.pt ends in '.pt'"),
            ("translate a.png --reference b.png --save-concept sub", "sub has no suffix"),
            ("translate a.png --reference b.png --save-concept a.png/x.safetensors", "a.png is no folder"),
            ("translate a.png --concept b.png --save-concept x.safetensors", "nothing is learned"),
            ("translate a.png --reference none.png", "no picture none.png"),
            ("translate a.png --concept none.safetensors", "none.safetensors does not exist"),
            ("auto a.png --model none.pth", "none.pth does not exist"),
            ("auto a.png b.png none.png", "no picture none.png"),
            ("auto a.png words.png", "words.png is not a picture"),
            ("auto a.png sub", "sub is "),
            ("colorize a.png --reference words.png", "words.png is not a picture"),
            ("describe a.png --prompt cat --region cat=none.png", "no picture none.png"),
            ("auto a.png --output results.v2", "If it is a folder, write results.v2/"),
            ("auto a.png b.png --output words.png", "name a folder"),
            ("auto a.png b.png --output sub/gray.png/deep", "gray.png"),
            ("auto a.png --output new.jpg --bits 16", ".jpg"),
        ],
    )
    def test_message(self, place, no_model, capsys, command, expected):
        before = snapshot(place)
        assert run(*command.split()) == 1
        shown = capsys.readouterr()
        (line,) = shown.err.splitlines()
        assert line.startswith("error: ") and expected in line and shown.out == ""
        assert snapshot(place) == before

    def test_a_place_that_is_a_folder(self, place, no_model, capsys):
        (place / "b_colored.png").mkdir()
        assert run("auto", "a.png", "b.png") == 1
        assert "b_colored.png is a folder" in capsys.readouterr().err

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
    def test_a_folder_without_the_right_to_write(self, place, no_model, capsys):
        (place / "closed").mkdir(mode=0o500)
        assert run("auto", "a.png", "--output", "closed/") == 1
        assert "closed may not be written to" in capsys.readouterr().err

    def test_a_file_of_the_model(self, place, no_model, capsys):
        (place / "model" / "unet").mkdir(parents=True)
        (place / "model" / "unet" / "model.safetensors").write_bytes(b"weights")
        concept = ("--save-concept", "model/unet/model.safetensors")
        assert run("translate", "a.png", "--reference", "b.png", "--model", "model", *concept) == 1
        assert "--save-concept, would replace model, which is --model" in capsys.readouterr().err

    def test_a_link_to_an_input(self, place, no_model, capsys):
        (place / "link.png").symlink_to(place / "b.png")
        assert run("colorize", "a.png", "--reference", "b.png", "--output", "link.png") == 1
        assert "would replace b.png, which is --reference" in capsys.readouterr().err

    def test_links_to_one_input_have_results_of_their_own(self, place):
        (place / "link.png").symlink_to(place / "b.png")
        assert run("auto", "b.png", "link.png", "--output", "out", *SMALL) == 0
        assert sorted(path.name for path in (place / "out").iterdir()) == ["b_colored.png", "link_colored.png"]

    def test_extraction(self, place, capsys):
        (place / "a.safetensors").touch()
        for arguments, expected in (
            (("none.ckpt", "x.safetensors"), "none.ckpt does not exist"),
            (("a.png", "x.ckpt"), "x.ckpt ends in '.ckpt'; give a name that ends in .safetensors"),
            (("a.png", "words.png/x.safetensors"), "words.png is no folder"),
            (("a.safetensors", "./a.safetensors"), "would replace a.safetensors, which is the checkpoint"),
        ):
            assert run("extract-deadiff", *arguments) == 1
            assert expected in capsys.readouterr().err


class TestNames:
    def test_case(self, place, monkeypatch):
        """Where the file system takes a.png and A.png for one file, so do we."""
        pair = [place / "a.png", place / "sub" / "A.png"]
        writes = [(f"the result of {path}", place / "out" / f"{path.stem}_colored.png") for path in pair]
        monkeypatch.setattr(names, "folds_case", lambda folder: False)
        names.check_collisions(pair, [], writes)
        monkeypatch.setattr(names, "folds_case", lambda folder: True)
        with pytest.raises(ValueError, match="same file name"):
            names.check_collisions(pair, [], writes)

    def test_whether_a_file_system_folds_case(self, place, monkeypatch):
        (place / "Probe").touch()
        expected = (place / "pROBE").exists()
        assert names.folds_case(place) is names.folds_case(place / "not" / "there") is expected

    @pytest.mark.parametrize(
        "inputs, output, expected",
        [
            (("a.png",), None, ["a_colored.png"]),
            (("sub/gray.png", "a.png"), None, ["sub/gray_colored.png", "a_colored.png"]),
            (("a.png",), "x.TIF", ["x.TIF"]),
            (("a.png",), "out", ["out/a_colored.png"]),
            (("a.png",), "sub", ["sub/a_colored.png"]),
            (("a.png",), "results.v2/", ["results.v2/a_colored.png"]),
            (("a.png", "b.png"), "results.v2", ["results.v2/a_colored.png", "results.v2/b_colored.png"]),
        ],
    )
    def test_results(self, place, inputs, output, expected):
        from pathlib import Path

        found = names.results([Path(path) for path in inputs], output, "colored")
        assert [path.as_posix() for path in found] == expected

    def test_a_folder_with_a_dot_that_is_there(self, place):
        (place / "results.v2").mkdir()
        assert run("auto", "a.png", "--output", "results.v2", *SMALL) == 0
        assert size_of("results.v2/a_colored.png") == (48, 40)


class TestSizes:
    @pytest.mark.parametrize("suffix", ["png", "tif", "jpg", "webp"])
    @pytest.mark.parametrize("orientation, size", [(1, (5, 7)), (3, (5, 7)), (6, (7, 5)), (8, (7, 5))])
    def test_the_header_says_what_the_reader_gives(self, tmp_path, suffix, orientation, size):
        exif = Image.Exif()
        exif[0x0112] = orientation
        shapes(7, 5).save(tmp_path / f"a.{suffix}", exif=exif)
        assert size_from_header(tmp_path / f"a.{suffix}") == size
        assert tuple(load_picture(tmp_path / f"a.{suffix}").shape[1:3]) == size

    def test_a_large_scan_is_no_bomb(self, tmp_path, monkeypatch):
        shapes(40, 30).save(tmp_path / "a.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        assert size_from_header(tmp_path / "a.png") == (30, 40)
        assert Image.MAX_IMAGE_PIXELS == 100

    def test_what_memory_cannot_hold_is_refused_at_once(self, place, no_model, monkeypatch, capsys):
        from comfyui_exemplar.files import room

        monkeypatch.setattr(room, "LARGE", 1000)
        monkeypatch.setattr(room, "free_bytes", lambda: 50_000)
        assert run("auto", "a.png") == 1
        err = capsys.readouterr().err
        assert "a.png" in err and "of memory" in err and len(err.splitlines()) == 1
