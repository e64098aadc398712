"""The command describe: color by words."""

import pytest
import torch
from PIL import Image

from comfyui_exemplar.color import luminance
from comfyui_exemplar.files.pictures import load_picture

from ..fixtures.pictures import run, size_of


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
            (("--exact-luminance", "2"), "--exact-luminance is 2.0"),
            (("--model", "none.ckpt"), "none.ckpt does not exist"),
            (("--model", "gray.png"), "could not be read"),
        ],
    )
    def test_bad_options(self, folder, capsys, monkeypatch, options, expected):
        monkeypatch.chdir(folder)
        assert run("describe", "gray.png", "--output", "out.png", *options) == 1
        assert expected in capsys.readouterr().err and not (folder / "out.png").exists()
