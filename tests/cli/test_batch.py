"""Batches: what is refused before a model is loaded, what is held, and what a failure in the middle leaves."""

import logging
import os
import struct

import pytest
import torch
from PIL import Image

from comfyui_exemplar.cli import names
from comfyui_exemplar.cli.batch import size_of as size_from_header
from comfyui_exemplar.files import pictures as files
from comfyui_exemplar.files.pictures import load_picture

from ..fixtures.pictures import QUICK, run, shapes, size_of

SMALL = ("--resolution", "32")


@pytest.fixture
def place(folder, monkeypatch):
    """The folder of pictures as the working directory."""
    monkeypatch.chdir(folder)
    for name in ("scan.png", "scan.tif", "a.png", "a_colored.png", "b.png", "b_colored_sheet.png"):
        shapes(48, 40, "L").save(name)
    (folder / "sub").mkdir()
    shapes(48, 40, "L").save("sub/gray.png")
    (folder / "words.png").write_text("words")
    return folder


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

    def test_extraction(self, place, capsys):
        (place / "a.safetensors").touch()
        for arguments, expected in (
            (("none.ckpt", "x.safetensors"), "none.ckpt does not exist"),
            (("a.png", "x.ckpt"), "must end in .safetensors"),
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


class Counted:
    """How many pictures are read and not written yet, at most."""

    def __init__(self, monkeypatch):
        self.held = self.most = self.read = 0
        self.written = []
        read, save = files.read_photograph, files.save_picture

        def counted_read(path, **options):
            self.read += 1
            self.held += 1
            self.most = max(self.most, self.held)
            return read(path, **options)

        def counted_save(image, path, **options):
            if "sheet" not in path.name:
                self.held -= 1
                self.written.append(path.name)
            return save(image, path, **options)

        monkeypatch.setattr(files, "read_photograph", counted_read)
        monkeypatch.setattr(files, "save_picture", counted_save)


class TestHeld:
    """Memory does not grow with the number of pictures."""

    @pytest.fixture
    def frames(self, place):
        for i in range(9):
            shapes(48, 40, "L").rotate(180 * (i % 2)).save(f"f{i}.png")
        return [f"f{i}.png" for i in range(9)]

    @pytest.mark.parametrize(
        "command, most",
        [
            (("auto",), 1),
            (("auto", "--steady", "1"), 2),
            (("auto", "--steady", "3", "--batch", "2"), 5),
            (("colorize", "--reference", "reference.png", "--depth", "2"), 2),
            (("colorize", "--reference", "reference.png", "--depth", "2", "--batch", "4"), 5),
            (("describe", "--steps", "1"), 1),
        ],
    )
    def test_no_more_than_work_needs(self, frames, monkeypatch, command, most):
        counted = Counted(monkeypatch)
        assert run(*command, *frames, "--output", "out", *SMALL) == 0
        assert counted.written == [name.replace(".png", "_colored.png") for name in frames]
        assert counted.most == most  # colorize keeps its reference, too

    def test_steady_frames_are_those_of_one_batch(self, frames):
        from comfyui_exemplar.demo import ddcolor_path
        from comfyui_exemplar.networks.ddcolor.load import load_ddcolor
        from comfyui_exemplar.pipelines.ddcolor import AutoColorSettings, auto_color

        assert run("auto", *frames, "--steady", "2", "--output", "out", *SMALL) == 0
        together = torch.cat([load_picture(name) for name in frames])
        settings = AutoColorSettings(resolution=32, steady=2)
        expected = auto_color(load_ddcolor(ddcolor_path()), together, settings)
        found = torch.cat([load_picture(f"out/{name[:-4]}_colored.png") for name in frames])
        torch.testing.assert_close(found, expected, atol=0.5001 / 255, rtol=0)


class TestFailures:
    """What was done stays; one line says what failed, and how far it came."""

    @pytest.mark.parametrize("options", [(), ("--steady", "1")])
    def test_a_bad_picture_in_the_middle(self, place, capfd, options):
        names = [f"f{i}.png" for i in range(4)]
        for name in names:
            shapes(48, 40, "L").save(name)
        whole = (place / "f2.png").read_bytes()
        (place / "f2.png").write_bytes(whole[: len(whole) // 2])
        assert run("auto", *names, "--output", "out", *options, *SMALL) == 1
        written = sorted(path.name for path in (place / "out").iterdir())
        assert written == [f"f{i}_colored.png" for i in range(len(written))] and len(written) == 2 - len(options) // 2
        (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
        assert "f2.png" in line and f"{len(written)} of 4 results are written" in line

    def test_a_picture_that_cannot_be_colored_is_named(self, place, capfd):
        shapes(1, 1).save("dot.png")
        assert run("colorize", "a.png", "dot.png", "--reference", "reference.png", "--output", "out", *QUICK) == 1
        err = capfd.readouterr().err
        assert "error: dot.png: " in err and "1 of 2 results are written" in err

    @pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError(), KeyboardInterrupt()])
    def test_an_older_result_stays_when_writing_fails(self, place, capfd, monkeypatch, error):
        shapes(8, 8).save("old.png")
        before = (place / "old.png").read_bytes()

        def fails(self, file, *_, **__):
            file.write(b"half")
            raise error

        monkeypatch.setattr(Image.Image, "save", fails)
        code = run("auto", "a.png", "--output", "old.png", *SMALL)
        assert code == (130 if isinstance(error, KeyboardInterrupt) else 1)
        assert (place / "old.png").read_bytes() == before
        assert not [path for path in place.iterdir() if path.name.startswith(".")]
        assert "Traceback" not in capfd.readouterr().err

    @pytest.mark.parametrize("error", [SyntaxError("broken chunk"), struct.error("unpack"), TypeError(), IndexError()])
    def test_a_decoder_that_raises_what_it_likes(self, place, capfd, monkeypatch, error):
        def fails(*_, **__):
            raise error

        monkeypatch.setattr(files, "decode", fails)
        assert run("auto", "a.png", *SMALL) == 1
        (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
        assert "a.png is not a picture that can be read" in line

    @pytest.mark.parametrize(
        "error",
        [
            torch.OutOfMemoryError("CUDA out of memory"),
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            MemoryError("Unable to allocate 3 GiB"),
        ],
    )
    def test_memory(self, place, capfd, monkeypatch, error):
        from comfyui_exemplar.pipelines import ddcolor

        def fails(*_, **__):
            raise error

        monkeypatch.setattr(ddcolor, "auto_color", fails)
        assert run("auto", "a.png", *SMALL) == 1
        (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
        assert "a.png" in line and "memory ran out" in line

    def test_a_mistake_of_ours_keeps_its_traceback(self, place, monkeypatch):
        from comfyui_exemplar.pipelines import ddcolor

        def fails(*_, **__):
            raise RuntimeError("size mismatch")

        monkeypatch.setattr(ddcolor, "auto_color", fails)
        with pytest.raises(RuntimeError, match="size mismatch"):
            run("auto", "a.png", *SMALL)


class TestSaid:
    def test_warnings_are_one_line_each(self, place, capfd, monkeypatch):
        from comfyui_exemplar.pipelines import ddcolor

        real = ddcolor.auto_color

        def warns(*arguments, **options):
            logging.getLogger("comfyui_exemplar.somewhere").warning("two\nlines, %d words", 3)
            logging.getLogger("comfyui_exemplar.somewhere").info("nothing")
            return real(*arguments, **options)

        monkeypatch.setattr(ddcolor, "auto_color", warns)
        assert run("auto", "a.png", "--output", "out/", *SMALL) == 0
        err = capfd.readouterr().err
        assert "warning: two lines, 3 words\n" in err and "nothing" not in err
        assert not any(type(handler).__name__ == "_Warnings" for handler in logging.getLogger().handlers)

    def test_pages_that_are_left(self, place, capfd):
        shapes(48, 40, "L").save("pages.tif", save_all=True, append_images=[shapes(48, 40, "L")])
        assert run("auto", "pages.tif", *SMALL) == 0
        (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning")]
        assert "pages.tif" in line and "page" in line


class TestResults:
    def test_sixteen_bits_and_what_the_file_said(self, place):
        exif = Image.Exif()
        exif[0x010F] = "A camera"
        shapes(48, 40, "I;16").save("deep.tif", dpi=(600, 600), exif=exif)
        assert run("auto", "deep.tif", "--output", "out.tif", "--bits", "16", *SMALL) == 0
        result = files.read_photograph("out.tif")
        assert result.facts.bits == 16 and result.facts.resolution == pytest.approx((600, 600))
        assert b"A camera" in result.facts.exif
        levels = (load_picture("out.tif")[..., 0] * 65535).round().unique()
        assert len(levels) > 300  # of at most 256 that eight bits have

    def test_eight_bits_otherwise(self, place):
        assert run("auto", "a.png", *SMALL) == 0
        assert files.read_photograph("a_colored.png").facts.bits == 8
