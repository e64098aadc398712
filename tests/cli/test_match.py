"""The command match: colors of references by statistics."""

import pytest
import torch
from PIL import Image

from comfyui_exemplar.files.pictures import load_picture, save_picture
from comfyui_exemplar.pipelines.match import MatchSettings, match_colors

from ..fixtures.pictures import run


def blobs(seed, height=40, width=48):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 4, 5, generator=generator)
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1).movedim(1, -1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        save_picture(blobs(number), tmp_path / f"frame{number}.png")
    for name, seed in (("warm", 7), ("cold", 8)):
        save_picture(blobs(seed, 32, 36), tmp_path / f"{name}.png")
    save_picture(blobs(9, 20, 20), tmp_path / "small.png")
    mask = Image.new("L", (48, 40))
    mask.paste(255, (0, 0, 24, 40))
    mask.save("left.png")
    return tmp_path


FRAMES = tuple(f"frame{number}.png" for number in range(3))


def loaded(*names):
    return torch.cat([load_picture(name) for name in names])


def same(name, wanted):
    """Up to the rounding to 8 bits."""
    return float((load_picture(name) - wanted).abs().max()) <= 0.51 / 255


def test_one_reference_for_all_and_one_for_each(folder, capsys):
    assert run("match", *FRAMES, "--reference", "warm.png", "--output", "all") == 0
    assert [line.split("/")[-1] for line in capsys.readouterr().out.split()] == [
        f"frame{number}_matched.png" for number in range(3)
    ]
    for name in FRAMES:
        wanted = match_colors(loaded(name), loaded("warm.png"), MatchSettings())
        assert same(f"all/{name.replace('.png', '_matched.png')}", wanted)
    assert run("match", *FRAMES[:2], "--reference", "warm.png", "small.png", "--output", "each") == 0
    assert same("each/frame1_matched.png", match_colors(loaded(FRAMES[1]), loaded("small.png"), MatchSettings()))


@pytest.mark.parametrize("statistics", [("whole batch", 0), ("one frame", 2)])
def test_a_film_gets_one_map_of_several_references(folder, statistics):
    name, frame = statistics
    options = ("--statistics", name, "--frame", str(frame), "--method", "mean and spread", "--keep-lightness")
    assert run("match", *FRAMES, "--reference", "warm.png", "cold.png", *options, "--output", "film") == 0
    chosen = MatchSettings(statistics=name, frame=frame, method="mean and spread", keep_lightness=True)
    wanted = match_colors(loaded(*FRAMES), loaded("warm.png", "cold.png"), chosen)
    for number in range(3):
        assert same(f"film/frame{number}_matched.png", wanted[number : number + 1])


def test_masks_on_both_sides(folder):
    options = ("--reference", "warm.png@left.png", "--mask", "left.png", "--output", "part.png")
    assert run("match", FRAMES[0], *options) == 0
    left = torch.zeros(1, 40, 48)
    left[..., :24] = 1
    wanted = match_colors(loaded(FRAMES[0]), loaded("warm.png"), MatchSettings(), mask=left, reference_mask=left)
    assert same("part.png", wanted)
    assert torch.equal(load_picture("part.png")[:, :, 24:], load_picture(FRAMES[0])[:, :, 24:])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--reference", "warm.png", "cold.png"), "--reference names 2 pictures for 3 input(s)"),
        (("--reference", "warm.png", "--statistics", "one frame", "--frame", "3"), "--frame is 3, but there are 3"),
        (
            ("--reference", "warm.png", "small.png", "--statistics", "whole batch"),
            "--reference small.png: found 20 x 20 pixels, expected 36 x 32, as warm.png has",
        ),
        (("--reference", "warm.png", "--device", "hpu"), "--device hpu can't be used here"),
        (("--reference", "warm.png", "--mask", "black.png"), "covers nothing"),
        (("--reference", "gone.png"), "gone.png"),
    ],
)
def test_refused_in_one_line_before_anything_is_written(folder, capsys, options, said):
    Image.new("L", (48, 40)).save("black.png")
    assert run("match", *FRAMES, *options, "--output", "new") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line
    assert not list(folder.glob("new/*.png"))
