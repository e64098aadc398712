"""The command ``film`` on films of other kinds, from file to file: shots in color, odd sizes, high definition."""

import json

import numpy as np
import pytest
import torch

from comfyui_exemplar import cli
from comfyui_exemplar.color import ab_error, desaturate
from comfyui_exemplar.files.films import open_film
from comfyui_exemplar.files.pictures import save_picture

from ..fixtures.film_files import filled, picture, write_film
from .test_film import QUICK

pytest.importorskip("av")


def film(source, key, out, *more):
    named = ["film", source, "--key-frame", f"0={key}", "--output", out, *QUICK, *more]
    return cli.main([str(each) for each in named])


def frames_of(path):
    return torch.stack([frame.picture for frame in open_film(path).frames()])


def test_a_shot_in_color_is_found_and_left_alone(tmp_path):
    """Twelve gray frames, then twelve of another scene in color."""
    truth = [picture(time) for time in range(12)]
    grays = [desaturate(frame[None])[0] for frame in truth]
    other = [picture(time).flip(0, 1).roll(20, 1).square() for time in range(12)]
    source = write_film(tmp_path / "in.mkv", [*grays, *other], codec="ffv1", pix_fmt="yuv444p")
    save_picture(truth[0][None], tmp_path / "key.png")
    out, known = tmp_path / "out.mkv", tmp_path / "known.json"
    assert film(source, tmp_path / "key.png", out, "--json", known) == 0
    shots = json.loads(known.read_text())["shots"]
    assert [(shot["start"], shot["stop"], shot["colored"]) for shot in shots] == [(0, 12, False), (12, 24, True)]
    before, after = frames_of(source), frames_of(out)
    assert float((after[12:] - before[12:]).abs().max()) < 0.5 / 255
    assert ab_error(after[:1], truth[0][None]) < 3 < ab_error(before[:1], truth[0][None])


@pytest.mark.parametrize("name", ["out.mkv", "out.mp4"])
def test_odd_sizes_stay(tmp_path, name):
    truth = [picture(time, 77, 101) for time in range(3)]
    source = write_film(tmp_path / "in.mkv", [desaturate(frame[None])[0] for frame in truth], codec="ffv1")
    save_picture(truth[0][None], tmp_path / "key.png")
    assert film(source, tmp_path / "key.png", tmp_path / name, "--cuts", "0") == 0
    made = frames_of(tmp_path / name)
    assert made.shape == (3, 77, 101, 3)
    assert ab_error(made[:1], truth[0][None]) < 3


def test_high_definition_without_tags_is_read_and_written_as_bt709(tmp_path):
    """A shot in color, of bands whose codes BT.601 would read as other colors."""
    size, bands = (1280, 720), [(120, 90, 200), (150, 180, 80), (120, 200, 128), (130, 60, 90)]
    wide = size[0] // len(bands)
    frames = []
    for _ in range(2):
        frame = filled("yuv444p", bands[0], *size)
        for place, codes in enumerate(bands):
            for plane, code in zip(frame.planes, codes, strict=True):
                rows = np.frombuffer(plane, np.uint8).reshape(size[1], plane.line_size)
                rows[:, place * wide : (place + 1) * wide] = code
        frames.append(frame)
    source = write_film(tmp_path / "in.mkv", frames, codec="ffv1")
    save_picture(torch.rand(1, *size[::-1], 3), tmp_path / "key.png")
    assert film(source, tmp_path / "key.png", tmp_path / "out.mkv", "--json", tmp_path / "known.json") == 0
    assert json.loads((tmp_path / "known.json").read_text())["shots"][0]["colored"]
    made = frames_of(tmp_path / "out.mkv")[0]
    for place, (y, u, v) in enumerate(bands):
        luma, blue, red = (y - 16) / 219, (u - 128) / 224, (v - 128) / 224
        # BT.709: Kr 0.2126, Kb 0.0722
        color = torch.tensor([luma + 1.5748 * red, luma - 0.1873 * blue - 0.4681 * red, luma + 1.8556 * blue])
        torch.testing.assert_close(made[300, wide * place + 99], color.clamp(0, 1), atol=1 / 255, rtol=0)
