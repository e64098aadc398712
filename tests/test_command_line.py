"""The command line, as a user calls it. Runs that need no fresh process go through ``main`` to save its start."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from comfyui_exemplar.__main__ import main
from comfyui_exemplar.color import luminance
from comfyui_exemplar.files.pictures import load_picture

from .small_ddcolor import small_weights

#: Few and small model calls of the embedded model.
QUICK = ("--depth", "2", "--resolution", "32")


def shapes(width, height, mode="RGB"):
    """A smooth picture with something to see."""
    y, x = np.mgrid[0:height, 0:width]
    red = 120 + 80 * np.sin(x / 7)
    green = 120 + 80 * np.cos(y / 9)
    rgb = np.stack([red, green, 200 - (x + y) * 100 / (width + height)], -1).astype(np.uint8)
    if mode == "I;16":
        return Image.fromarray((rgb[..., 0].astype(np.uint16) * 257) + 31)
    if mode == "RGBA":
        alpha = np.where(x < width // 4, 0, 255).astype(np.uint8)
        return Image.fromarray(np.dstack([rgb, alpha]))
    return Image.fromarray(rgb).convert(mode)


@pytest.fixture
def folder(tmp_path):
    shapes(48, 40, "L").save(tmp_path / "gray.png")
    shapes(64, 64).save(tmp_path / "reference.png")
    return tmp_path


def command(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "comfyui_exemplar", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )


def size_of(path):
    with Image.open(path) as image:
        return image.size


class TestAsAProcess:
    def test_one_picture_beside_the_input(self, folder):
        done = command(folder, "colorize", "gray.png", "--reference", "reference.png", *QUICK)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["gray_colored.png", "gray_colored_sheet.png"]
        assert size_of(folder / "gray_colored.png") == (48, 40)
        sheet = size_of(folder / "gray_colored_sheet.png")
        assert sheet[0] > 5 * 256 and sheet[1] > 256
        found, gray = load_picture(folder / "gray_colored.png"), load_picture(folder / "gray.png")
        assert (luminance(found) - luminance(gray)).abs().mean() < 0.5  # 8-bit rounding
        assert (found.amax(-1) - found.amin(-1)).mean() > 0.02  # color

    def test_a_missing_file_is_one_line_without_a_traceback(self, folder):
        done = command(folder, "colorize", "nothing.png", "--reference", "reference.png")
        assert done.returncode == 1 and done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: There is no picture nothing.png")

    def test_the_folder_itself_is_not_a_program(self, folder):
        package = Path(sys.modules["comfyui_exemplar.__main__"].__file__).parent
        done = subprocess.run([sys.executable, str(package)], capture_output=True, text=True, cwd=folder, timeout=60)
        assert done.returncode == 1 and "python -m comfyui_exemplar" in done.stderr and "Traceback" not in done.stderr


def run(*arguments):
    return main([str(a) for a in arguments])


class TestRuns:
    def test_several_inputs_of_all_kinds_into_a_folder(self, folder, capsys):
        shapes(64, 64, "RGBA").save(folder / "clear.png")
        shapes(40, 24, "I;16").save(folder / "deep.png")
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was turned: shown 24 wide and 40 high
        shapes(40, 24).save(folder / "turned.jpg", exif=exif)
        names = ("clear", "deep", "turned")
        inputs = [folder / "clear.png", folder / "deep.png", folder / "turned.jpg"]
        out = folder / "new" / "out"
        assert run("colorize", *inputs, "--reference", folder / "reference.png", "--output", out, *QUICK) == 0
        found = {name: size_of(out / f"{name}_colored.png") for name in names}
        assert found == {"clear": (64, 64), "deep": (40, 24), "turned": (24, 40)}
        assert all((out / f"{name}_colored_sheet.png").is_file() for name in names)
        assert len(capsys.readouterr().out.split()) == 6
        # transparency became white, and sixteen bits were not cut off
        colored = load_picture(out / "clear_colored.png")
        assert luminance(colored)[0, :, :16].min() > 97
        deep = luminance(load_picture(out / "deep_colored.png")) - luminance(load_picture(folder / "deep.png"))
        assert deep.abs().mean() < 0.5

    def test_a_named_file_without_a_sheet(self, folder):
        out = folder / "new" / "named.jpg"
        assert (
            run(
                "colorize",
                folder / "gray.png",
                "--reference",
                folder / "reference.png",
                "--output",
                out,
                "--no-sheet",
                "--passes",
                "2",
                "--guidance",
                "1",
                *QUICK,
            )
            == 0
        )
        assert size_of(out) == (48, 40)
        assert [path.name for path in out.parent.iterdir()] == ["named.jpg"]

    def test_model_calls_of_the_progress_bar(self, folder, capfd):
        inputs = [folder / "wide.png", folder / "second.png"]
        shapes(80, 30).save(inputs[0])
        shapes(48, 40).save(inputs[1])
        assert (
            run(
                "colorize",
                *inputs,
                "--reference",
                folder / "reference.png",
                "--output",
                folder / "out",
                "--no-sheet",
                *QUICK,
            )
            == 0
        )
        # 2 steps up for input and reference apart (their shapes differ) and 2 down; the reference only once
        bars = capfd.readouterr().err
        assert "6/6" in bars and "4/4" in bars


class TestErrors:
    @pytest.fixture(autouse=True)
    def before_any_work(self, monkeypatch):
        """None of these may get as far as coloring."""
        from comfyui_exemplar.pipelines import exemplar as colorize

        def refuse(*_, **__):
            raise AssertionError("colorize ran")

        monkeypatch.setattr(colorize, "colorize", refuse)

    def message(self, capsys, *arguments):
        assert run("colorize", *arguments) == 1
        shown = capsys.readouterr()
        assert shown.out == ""
        lines = shown.err.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: "), shown.err
        return lines[0]

    def test_two_inputs_and_one_output_file(self, folder, capsys):
        gray = folder / "gray.png"
        found = self.message(capsys, gray, gray, "--reference", gray, "--output", folder / "a.png")
        assert "2 inputs" in found and "a.png" in found and "name a folder" in found

    def test_two_inputs_of_one_name(self, folder, capsys):
        (folder / "sub").mkdir()
        other = folder / "sub" / "gray.png"
        shapes(8, 8).save(other)
        gray = folder / "gray.png"
        found = self.message(capsys, gray, other, "--reference", gray, "--output", folder / "out")
        assert "same file name" in found

    def test_a_missing_reference(self, folder, capsys):
        found = self.message(capsys, folder / "gray.png", "--reference", folder / "nothing.png")
        assert "There is no picture" in found and "nothing.png" in found

    def test_not_a_picture(self, folder, capsys):
        (folder / "words.png").write_text("words")
        found = self.message(capsys, folder / "words.png", "--reference", folder / "reference.png")
        assert "words.png is not a picture that can be read" in found

    @pytest.mark.parametrize(
        "content, expected", [(None, "does not exist"), (b"nonsense", "could not be read"), (b"", "could not be read")]
    )
    def test_a_bad_model_file(self, folder, capsys, content, expected):
        model = folder / "model.safetensors"
        if content is not None:
            model.write_bytes(content)
        found = self.message(capsys, folder / "gray.png", "--reference", folder / "reference.png", "--model", model)
        assert expected in found and "model.safetensors" in found

    @pytest.mark.parametrize(
        "option, expected",
        [
            (("--passes", "0"), "passes is 0"),
            (("--gamma-deep", "2"), "gamma_deep is 2.0; it must lie between 0 and 1"),
        ],
    )
    def test_settings_out_of_range(self, folder, capsys, option, expected):
        found = self.message(capsys, folder / "gray.png", "--reference", folder / "reference.png", *option)
        assert expected in found

    @pytest.mark.parametrize(
        "arguments",
        [
            (),
            ("colorize",),
            ("colorize", "a.png"),
            ("paint", "a.png"),
            ("colorize", "a.png", "--reference", "b.png", "--depth", "many"),
            ("colorize", "a.png", "--reference", "b.png", "--dtype", "int8"),
        ],
    )
    def test_usage(self, capsys, arguments):
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        assert stop.value.code == 2 and "usage: comfyui_exemplar" in capsys.readouterr().err


class TestLateErrors:
    """Settings that only the loaded model can judge are one line too."""

    @pytest.mark.parametrize(
        "option, expected",
        [
            (("--depth", "60"), "depth is 60"),
            (("--layers", "output.99"), "'output.99' matches no attention layer"),
        ],
    )
    def test_message(self, folder, capfd, option, expected):
        assert run("colorize", folder / "gray.png", "--reference", folder / "reference.png", *option) == 1
        errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and expected in errors[0]
        assert not (folder / "gray_colored.png").exists()

    def test_a_picture_of_one_pixel(self, folder, capfd):
        shapes(1, 1).save(folder / "dot.png")
        assert run("colorize", folder / "dot.png", "--reference", folder / "reference.png") == 1
        assert "at least 2 on each side" in capfd.readouterr().err

    def test_no_gray_correspondence(self, folder):
        options = ("--gamma-shallow", "0", "--gamma-deep", "0.5", "--no-sheet", *QUICK)
        assert run("colorize", folder / "gray.png", "--reference", folder / "reference.png", *options) == 0


class TestAuto:
    """Color with no reference, by a tiny DDColor of random numbers."""

    QUICK = ("--resolution", "32")

    @pytest.fixture
    def model(self, folder):
        path = folder / "small.pth"
        torch.save({"params": small_weights()}, path)
        return path

    def test_one_picture_beside_the_input(self, folder, model, capsys):
        assert run("auto", folder / "gray.png", "--model", model, *self.QUICK) == 0
        out = folder / "gray_colored.png"
        assert capsys.readouterr().out.split() == [str(out)]
        found, gray = load_picture(out), load_picture(folder / "gray.png")
        assert found.shape == gray.shape
        assert (luminance(found) - luminance(gray)).abs().mean() < 0.5  # 8-bit rounding
        assert (found.amax(-1) - found.amin(-1)).mean() > 0.005  # color; the input has none at all

    def test_several_sizes_and_the_published_arithmetic(self, folder, model):
        shapes(40, 24).save(folder / "other.png")
        inputs = (folder / "gray.png", folder / "other.png")
        out = folder / "out"
        assert run("auto", *inputs, "--model", model, "--output", out, "--arithmetic", "official", *self.QUICK) == 0
        assert [size_of(out / f"{name}_colored.png") for name in ("gray", "other")] == [(48, 40), (40, 24)]

    def test_frames_of_a_video(self, folder, model, capfd):
        inputs = [folder / f"{i}.png" for i in range(3)]
        for i, path in enumerate(inputs):
            shapes(48, 40, "L").rotate(180 * (i % 2)).save(path)
        assert run("auto", *inputs, "--model", model, "--steady", "1", "--output", folder / "out", *self.QUICK) == 0
        assert len(list((folder / "out").iterdir())) == 3 and "3/3" in capfd.readouterr().err

    @pytest.mark.parametrize(
        "options, expected",
        [
            (("--steady", "2"), "--steady wants the frames of one video, but the inputs have 2 sizes"),
            (("--strength", "2"), "strength is 2.0"),
            (("--resolution", "-1"), "resolution is -1"),
        ],
    )
    def test_bad_options(self, folder, model, capsys, options, expected):
        inputs = (folder / "gray.png", folder / "reference.png")
        assert run("auto", *inputs, "--model", model, "--output", folder / "out", *options) == 1
        assert expected in capsys.readouterr().err and not (folder / "out").exists()

    def test_bad_models(self, folder, capsys):
        for path, expected in ((folder / "none.pth", "does not exist"), (folder / "gray.png", "could not be read")):
            assert run("auto", folder / "gray.png", "--model", path) == 1
            assert expected in capsys.readouterr().err

    def test_the_embedded_one_by_default_at_its_own_resolution(self, folder, monkeypatch):
        """Any other file is run at 512."""
        from comfyui_exemplar import demo

        pictures = {}
        embedded = demo.ddcolor_path()
        choices = {
            "default": (),
            "same": ("--model", embedded, "--resolution", "128"),
            "named": ("--model", embedded),
            "large": ("--resolution", "512"),
        }
        for name, options in choices.items():
            out = folder / f"{name}.png"
            assert run("auto", folder / "gray.png", "--output", out, *options) == 0
            pictures[name] = load_picture(out)
        assert torch.equal(pictures["default"], pictures["same"])
        assert torch.equal(pictures["named"], pictures["large"])
        assert not torch.equal(pictures["default"], pictures["large"])
        monkeypatch.setattr(demo, "ddcolor_path", lambda: folder / "gone.safetensors")
        assert run("auto", folder / "gray.png") == 1


class TestDescribe:
    QUICK = ("--steps", "2", "--resolution", "32")

    def test_words_and_none(self, folder, capsys):
        inputs, found = (folder / "gray.png",), {}
        for name, options in (("red", ("--prompt", "red apple")), ("blue", ("--prompt", "blue apple")), ("none", ())):
            out = folder / f"{name}.png"
            assert run("describe", *inputs, "--output", out, *options, *self.QUICK) == 0
            found[name] = load_picture(out)
            assert size_of(out) == (48, 40)
        assert not torch.equal(found["red"], found["blue"]) and not torch.equal(found["red"], found["none"])
        gray = load_picture(folder / "gray.png")
        assert float((luminance(found["red"]) - luminance(gray)).abs().max()) < 1  # 8 bits
        assert len(capsys.readouterr().out.split()) == 3

    def test_regions(self, folder):
        """Colors stay where a mask puts them: crossed masks exchange the picture's halves."""
        prompt, found = "red apple, blue apple", {}
        for side, box in (("left", (0, 0, 20, 48)), ("right", (20, 0, 40, 48))):
            mask = Image.new("L", (40, 48))
            mask.paste(255, box)
            mask.save(folder / f"{side}.png")
        for name, sides in (("one", ("left", "right")), ("other", ("right", "left"))):
            regions = [f"{phrase}={folder / side}.png" for phrase, side in zip(prompt.split(", "), sides, strict=True)]
            options = [part for region in regions for part in ("--region", region)]
            out = folder / f"{name}.png"
            assert run("describe", folder / "gray.png", "--prompt", prompt, "--output", out, *options, *self.QUICK) == 0
            found[name] = load_picture(out)
        redness = {name: (picture[..., 0] - picture[..., 2])[0] for name, picture in found.items()}
        change = redness["one"] - redness["other"]
        assert float(change[:, :20].mean()) > 0 > float(change[:, 20:].mean())

    @pytest.mark.parametrize(
        "options, expected",
        [
            (("--steps", "0"), "steps is 0"),
            (("--region", "red apple"), "write PHRASE=MASK"),
            (("--prompt", "red apple", "--region", "pear=gray.png"), "does not contain 'pear'"),
            (("--prompt", "red apple", "--region", "red apple=none.png"), "none.png"),
            (("--exact-luminance", "2"), "exact_luminance is 2.0"),
            (("--model", "none.ckpt"), "none.ckpt does not exist"),
            (("--model", "gray.png"), "could not be read"),
        ],
    )
    def test_bad_options(self, folder, capsys, monkeypatch, options, expected):
        monkeypatch.chdir(folder)
        assert run("describe", "gray.png", "--output", "out.png", *options) == 1
        assert expected in capsys.readouterr().err and not (folder / "out.png").exists()


def test_cuda_that_is_not_there(folder, capfd):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert run("colorize", folder / "gray.png", "--reference", folder / "reference.png", "--device", "cuda") == 1
    assert "error: --device cuda can't be used here" in capfd.readouterr().err


class TestTranslate:
    QUICK = ("--steps", "2", "--resolution", "32", "--updates", "1", "--pivot-iterations", "1")

    def test_a_concept_is_learned_kept_and_used_again(self, folder, capsys, monkeypatch):
        monkeypatch.chdir(folder)
        kept = folder / "concept.safetensors"
        assert (
            run("translate", "reference.png", "--reference", "reference.png", *self.QUICK, "--save-concept", kept) == 0
        )
        assert capsys.readouterr().out.split() == [str(kept), "reference_translated.png"]
        first = load_picture(folder / "reference_translated.png")
        assert size_of(folder / "reference_translated.png") == (64, 64)
        assert run("translate", "reference.png", "--concept", kept, *self.QUICK, "--output", "again.png") == 0
        assert torch.equal(load_picture(folder / "again.png"), first)

    def test_what_cannot_be(self, folder, capsys, monkeypatch):
        monkeypatch.chdir(folder)
        for arguments, message in (
            (("--reference", "nothing.png"), "no picture nothing.png"),
            (("--reference", "reference.png", "--word", "?"), "no word that the embedded model reads"),
            (("--reference", "reference.png", "--self-ratio", "2"), "self_ratio is 2.0; it must lie between 0 and 1"),
            (("--concept", "reference.png"), "reference.png"),
        ):
            assert run("translate", "reference.png", *arguments, *self.QUICK) == 1
            assert message in capsys.readouterr().err
