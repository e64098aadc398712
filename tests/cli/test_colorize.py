"""The command colorize, as a user calls it. Runs that need no fresh process go through ``main`` to save its start."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from comfyui_exemplar.__main__ import main
from comfyui_exemplar.color import luminance
from comfyui_exemplar.files.pictures import load_picture

from ..fixtures.pictures import QUICK, command, run, shapes, size_of


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

    def test_a_picture_does_not_depend_on_those_beside_it(self, folder):
        inputs = [folder / f"{i}.png" for i in range(2)]
        for i, path in enumerate(inputs):
            shapes(48, 40, "L").rotate(180 * i).save(path)
        options = ("--reference", folder / "reference.png", "--no-sheet", *QUICK)
        assert run("colorize", *inputs, "--output", folder / "out", *options) == 0
        assert run("colorize", inputs[1], "--output", folder / "alone.png", *options) == 0
        assert (folder / "out" / "1_colored.png").read_bytes() == (folder / "alone.png").read_bytes()

    def test_pictures_of_one_size_share_model_calls(self, folder, capfd):
        inputs = [folder / f"{i}.png" for i in range(3)]
        for i, path in enumerate(inputs):
            shapes(48, 40, "L").rotate(180 * (i % 2)).save(path)
        options = ("--reference", folder / "reference.png", *QUICK, "--match-chroma", "0")
        assert run("colorize", *inputs, "--output", folder / "out", "--batch", "2", *options) == 0
        assert "8/8" in capfd.readouterr().err  # two rounds of 2 steps up and 2 down
        assert run("colorize", inputs[1], "--output", folder / "alone.png", *options) == 0
        together, alone = load_picture(folder / "out" / "1_colored.png"), load_picture(folder / "alone.png")
        assert (together - alone).abs().max() < 2.5 / 255
        sheets = [size_of(path) for path in (folder / "out" / "1_colored_sheet.png", folder / "alone_sheet.png")]
        assert sheets[0] == sheets[1]


class TestErrors:
    @pytest.fixture(autouse=True)
    def before_any_work(self, monkeypatch):
        """None of these may get as far as coloring."""
        from comfyui_exemplar.pipelines import exemplar_batches

        def refuse(*_, **__):
            raise AssertionError("colorize ran")

        monkeypatch.setattr(exemplar_batches, "colorize", refuse)

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
            (("--gamma-deep", "2"), "--gamma-deep is 2.0; it must lie between 0 and 1"),
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


def test_cuda_that_is_not_there(folder, capfd):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert run("colorize", folder / "gray.png", "--reference", folder / "reference.png", "--device", "cuda") == 1
    assert "error: --device cuda can't be used here" in capfd.readouterr().err
