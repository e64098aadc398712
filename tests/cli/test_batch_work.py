"""Batches at work: what is held, what a failure in the middle leaves, what is said, and what results carry."""

import logging
import struct

import pytest
import torch
from PIL import Image

from comfyui_exemplar.files import pictures as files
from comfyui_exemplar.files.pictures import load_picture

from ..fixtures.pictures import QUICK, run, shapes

SMALL = ("--resolution", "32")


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

    @pytest.mark.parametrize(
        "error",
        [
            RuntimeError("size mismatch\nfor a"),
            KeyError("weight"),
            TypeError("no"),
            AssertionError(),
            ArithmeticError("x"),
        ],
    )
    @pytest.mark.parametrize("traceback", [False, True])
    def test_a_mistake_of_ours_has_a_code_of_its_own(self, place, capfd, monkeypatch, error, traceback):
        from comfyui_exemplar.pipelines import ddcolor

        def fails(*_, **__):
            raise error

        monkeypatch.setattr(ddcolor, "auto_color", fails)
        assert run("auto", "a.png", *SMALL, *["--traceback"] * traceback) == 3
        said = capfd.readouterr().err
        (line,) = [line for line in said.splitlines() if line.startswith("error")]
        assert f"a.png: unexpected {type(error).__name__}" in line and "--traceback shows where" in line
        assert ("Traceback" in said and "in fails" in said) is traceback


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


class TestWeights:
    """Embeddings and adapters: an older file stays until the new one is whole."""

    @pytest.fixture
    def old(self, tmp_path, monkeypatch):
        from comfyui_exemplar.files import embeddings
        from comfyui_exemplar.hosts.diffusers import vct_text

        def fails(tensors, path, **_):
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")

        for module in (embeddings, vct_text):
            monkeypatch.setattr(module, "save_file", fails)
        monkeypatch.setattr("safetensors.torch.save_file", fails)
        path = tmp_path / "old.safetensors"
        path.write_bytes(b"whole")
        yield path
        assert path.read_bytes() == b"whole" and [each.name for each in tmp_path.iterdir() if each != path] == []

    def test_concept_of_the_command_line(self, old):
        from types import SimpleNamespace

        from comfyui_exemplar.hosts.diffusers.vct_text import save_vectors

        with pytest.raises(OSError):
            save_vectors(old, SimpleNamespace(names=("l",)), [torch.ones(2, 4)])

    def test_concept_of_the_node(self, old):
        from comfyui_exemplar.diffusion.concept import ConceptState
        from comfyui_exemplar.files.embeddings import ConceptFile, save_concept

        with pytest.raises(OSError):
            save_concept(old, ConceptFile(("l",), ConceptState.fresh([torch.ones(2, 4)]), {}))

    def test_adapter(self, old, tmp_path_factory, monkeypatch):
        from safetensors import numpy as saver

        from comfyui_exemplar.files import owned
        from comfyui_exemplar.networks.deadiff import load

        from ..fixtures.deadiff import small_weights

        source = tmp_path_factory.mktemp("source") / "deadiff.safetensors"
        saver.save_file({name: tensor.numpy() for name, tensor in small_weights().items()}, source)
        with pytest.raises(ValueError, match="does not say that extract-deadiff made it"):
            load.extract(source, old)
        monkeypatch.setattr(owned, "read_metadata", lambda _: {load.ABOUT_KEY: "{}"})
        with pytest.raises(OSError):
            load.extract(source, old)
