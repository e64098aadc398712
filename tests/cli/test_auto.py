"""The command auto: color with no reference."""

import pytest
import torch

from comfyui_exemplar.color import luminance
from comfyui_exemplar.files.pictures import load_picture

from ..fixtures.ddcolor import small_weights
from ..fixtures.pictures import run, shapes, size_of


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
            (("--resolution", "5000"), "resolution is 5000"),
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
        """Also when it is named: its header says for which side it was trained."""
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
        assert torch.equal(pictures["default"], pictures["named"])
        assert not torch.equal(pictures["default"], pictures["large"])
        monkeypatch.setattr(demo, "ddcolor_path", lambda: folder / "gone.safetensors")
        assert run("auto", folder / "gray.png") == 1
