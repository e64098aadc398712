"""Films in ComfyUI: files, trimmed ones, films in memory and ones made of pictures; resumed, refused, bounded."""

import gc
import io
import logging
from fractions import Fraction

import comfy.model_management
import folder_paths
import pytest
import torch
from comfy_api.latest import InputImpl, Types

from comfyui_exemplar.color import desaturate, luminance_error, rgb_to_lab
from comfyui_exemplar.files.films import open_film
from comfyui_exemplar.nodes.video import ColorizeVideo, FindShots

from ...fixtures.film_files import RATE, moving, write_film

mm = comfy.model_management
QUICK = {"resolution": 64, "key_method": "none", "shortest": 2}


@pytest.fixture
def output(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "out"))
    return tmp_path / "out"


@pytest.fixture
def gray(tmp_path):
    """A gray film of two shots, with a tone."""
    return write_film(tmp_path / "gray.mp4", desaturate(moving()), sound=True)


@pytest.fixture
def colored(embedded, scene, output):
    """Run Exemplar Colorize Video: settings -> what it gives."""
    model, _, vae, empty = embedded

    def run(video, **inputs):
        inputs = {"model": model, "vae": vae, "conditioning": empty, "reference": scene[1], **QUICK, **inputs}
        return ColorizeVideo.execute(video=video, **inputs)

    return run


def frames_of(path):
    return torch.stack([frame.picture for frame in open_film(path).frames()])


def chroma(pictures):
    return rgb_to_lab(pictures)[..., 1:].norm(dim=-1).mean()


def files(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_file_gets_color_and_keeps_lightness_times_and_sound(gray, colored, output):
    video, strip, scores, suggestion = (made := colored(InputImpl.VideoFromFile(str(gray)), codec="ffv1")).result
    assert files(output) == ["colored_00001_.mkv"] and video.get_stream_source() == str(
        output / "video" / "colored_00001_.mkv"
    )
    found, given = frames_of(video.get_stream_source()), frames_of(gray)
    assert found.shape == given.shape and float(luminance_error(found, given).max()) < 0.6
    assert float(chroma(found)) > 1.0
    facts = open_film(video.get_stream_source()).facts
    assert facts.audio == 1 and facts.rate == RATE
    assert len(scores) == 2 and all(0 < each <= 1 for each in scores) and suggestion in range(10)
    assert strip.ndim == 4 and strip.shape[0] == 1 and strip.shape[-1] == 3
    assert made.ui["videos"] == [{"filename": "colored_00001_.mkv", "subfolder": "video", "type": "output"}]


def test_the_page_shows_what_it_can_play(gray, colored, output):
    made = colored(InputImpl.VideoFromFile(str(gray)))
    assert made.ui == {
        "images": [{"filename": "colored_00001_.mp4", "subfolder": "video", "type": "output"}],
        "animated": (True,),
    }
    second = colored(InputImpl.VideoFromFile(str(gray)))
    assert files(output) == ["colored_00001_.mp4", "colored_00002_.mp4"]
    one, two = ((output / "video" / name).read_bytes() for name in files(output))
    assert one == two and second.result[2] == made.result[2]


def test_a_trimmed_film_and_one_in_memory(gray, colored):
    whole = frames_of(gray)
    trimmed = InputImpl.VideoFromFile(str(gray), start_time=3 / RATE, duration=5 / RATE)
    found = frames_of(colored(trimmed, codec="ffv1").result[0].get_stream_source())
    assert len(found) == 5 and float(luminance_error(found, whole[3:8]).max()) < 0.6
    kept = io.BytesIO(gray.read_bytes())
    kept.seek(7)
    found = frames_of(colored(InputImpl.VideoFromFile(kept), codec="ffv1").result[0].get_stream_source())
    assert len(found) == 10 and not kept.closed


def test_pictures_lose_nothing_and_keep_their_sound(colored):
    pictures = desaturate(moving())
    tone = {"waveform": torch.rand(1, 2, 48000 * 2) - 0.5, "sample_rate": 48000}
    parts = Types.VideoComponents(images=pictures, audio=tone, frame_rate=Fraction(RATE))
    video = InputImpl.VideoFromComponents(parts)
    for codec in ("ffv1", "h264"):
        path = colored(video, codec=codec).result[0].get_stream_source()
        film = open_film(path)
        assert film.facts.audio == 1 and film.facts.rate == RATE
        found = torch.stack([frame.picture for frame in film.frames()])
        bound = 0.2 if codec == "ffv1" else 1.5
        assert len(found) == 10 and float(luminance_error(found, pictures).max()) < bound
        (heard,) = [InputImpl.VideoFromFile(path).get_components().audio["waveform"]]
        assert abs(heard.shape[-1] - 40000) <= 2048, "as long as the pictures"
