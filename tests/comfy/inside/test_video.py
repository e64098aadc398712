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

from ...fixtures.tiny_films import RATE, moving, write_film

mm = comfy.model_management
QUICK = {"resolution": 64, "key_method": "none", "cuts": "6"}


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
    assert made.ui["video"] == [{"filename": "colored_00001_.mkv", "subfolder": "video", "type": "output"}]


def test_the_page_lists_the_film(gray, colored, output):
    made = colored(InputImpl.VideoFromFile(str(gray)))
    assert made.ui == {"video": [{"filename": "colored_00001_.mp4", "subfolder": "video", "type": "output"}]}
    second = colored(InputImpl.VideoFromFile(str(gray)))
    assert files(output) == ["colored_00001_.mp4", "colored_00002_.mp4"]
    one, two = ((output / "video" / name).read_bytes() for name in files(output))
    assert one == two and second.result[2] == made.result[2]


def test_a_trimmed_film_and_one_in_memory(gray, colored):
    whole = frames_of(gray)
    trimmed = InputImpl.VideoFromFile(str(gray), start_time=3 / RATE, duration=5 / RATE)
    found = frames_of(colored(trimmed, codec="ffv1", cuts="0").result[0].get_stream_source())
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


def test_find_shots(gray, tmp_path):
    path = write_film(tmp_path / "longer.mp4", moving(48, cut=24))
    video = InputImpl.VideoFromFile(str(path))
    cuts, shots, strip = FindShots.execute(video=video).result
    assert cuts == "0, 24" and shots == 2 and strip.shape[0] == 1


def stop_at(monkeypatch, number):
    """The user cancels while frame ``number`` is at work, counted over all shots; returns what is called since."""
    from comfyui_exemplar.nodes.video_inputs import FilmProgress

    seen, colored = [], FilmProgress.colored

    def count(bar, done, *more):
        seen.append(done)
        if done == number:
            mm.interrupt_current_processing()
        colored(bar, done, *more)

    monkeypatch.setattr(FilmProgress, "colored", count)
    return seen


@pytest.mark.parametrize("codec", ["h264", "ffv1"])
def test_a_canceled_run_goes_on_and_is_the_same(gray, colored, output, monkeypatch, codec):
    video = InputImpl.VideoFromFile(str(gray))
    colored(video, codec=codec, filename_prefix="whole")
    (expected,) = output.glob("whole*")
    seen = stop_at(monkeypatch, 8)
    with pytest.raises(mm.InterruptProcessingException):
        colored(video, codec=codec)
    assert seen == list(range(1, 9)), "within a frame"
    (parts,) = (output / "video").iterdir()
    assert parts.name == f"colored_00001_{expected.suffix}.parts"
    assert set(files(parts)) - {".writing-lock"} == {"journal.jsonl", "shot_00000.segment"}
    with pytest.raises(mm.InterruptProcessingException):
        colored(video, codec=codec, steadiness=0.5)
    assert len(list((output / "video").iterdir())) == 2, "other work has a place of its own"
    seen.clear()
    monkeypatch.undo()
    monkeypatch.setattr(folder_paths, "output_directory", str(output))
    seen = stop_at(monkeypatch, 0)
    made = colored(InputImpl.VideoFromFile(str(gray)), codec=codec)
    assert seen == [7, 8, 9, 10], "the first shot is whole"
    assert (output / "video" / f"colored_00001_{expected.suffix}").read_bytes() == expected.read_bytes()
    assert len(made.result[2]) == 2 and not parts.exists()


def test_memory_does_not_grow_with_the_film(colored, tmp_path, output, monkeypatch):
    """Tensors that live, while frames of a film of 1,000 are colored."""
    from comfyui_exemplar.nodes.video_inputs import FilmProgress

    path = write_film(tmp_path / "long.mp4", desaturate(moving(1000, 24, 32, cut=500)))
    held, told = {}, FilmProgress.colored

    def count(bar, done, *more):
        if done in (60, 440, 560, 940):
            gc.collect()
            living = [each for each in gc.get_objects() if isinstance(each, torch.Tensor)]
            storages = [each.untyped_storage() for each in living]
            held[done] = sum({each.data_ptr(): each.nbytes() for each in storages}.values())
        told(bar, done, *more)

    monkeypatch.setattr(FilmProgress, "colored", count)
    made = colored(InputImpl.VideoFromFile(str(path)), resolution=32, cuts="500", batch=8)
    assert len(made.result[2]) == 2
    # of a shot up to sixteen candidates for the next key frame are kept as the network sees them
    assert abs(held[940] - held[440]) < 20_000 and abs(held[560] - held[60]) < 20_000, held
    assert held[440] - held[60] < 3_000_000, held
    film = open_film(made.result[0].get_stream_source())
    assert sum(1 for _ in film.small(8)) == 1000


@pytest.fixture
def video(gray):
    return InputImpl.VideoFromFile(str(gray))


def picture(height=48, width=64):
    return moving(1, height, width)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"reference": None}, "found no colors to take, expected a reference"),
        ({"key_frames": picture(), "key_frame_numbers": "99"}, "key frame 99: the film has no such frame"),
        ({"key_frames": picture(), "key_frame_numbers": "1, 2"}, "key_frame_numbers: found 2 number"),
        ({"key_frames": picture()}, r"key_frame_numbers: found 0 number\(s\) and 1 picture"),
        ({"key_frame_numbers": "3"}, "key_frame_numbers: found 1 number"),
        ({"key_frames": picture(), "key_frame_numbers": "x"}, "key_frame_numbers: found 'x', expected numbers"),
        ({"key_frames": picture(48, 90), "key_frame_numbers": "1"}, "key frame 1: found 90 x 48 pixels"),
        ({"key_frame_mask": torch.ones(1, 48, 64)}, "key_frame_mask: found one without key_frames"),
        ({"reference": None, "reference_mask": torch.ones(1, 8, 8)}, "reference_mask: found one without"),
        ({"cuts": "a"}, "cuts: found 'a', expected numbers"),
        ({"codec": "dnxhr"}, "The film is 64 x 48; dnxhr takes no less than"),
        ({"filename_prefix": "../out"}, "leads out of ComfyUI's output folder"),
        ({"vae": None}, "vae: found nothing, expected the VAE"),
        ({"video": None}, "video: found nothing, expected VIDEO; connect Load Video"),
    ],
)
def test_refused_before_long_work(colored, video, output, monkeypatch, inputs, said):
    from comfyui_exemplar.pipelines import memory

    monkeypatch.setattr(memory, "write_references", lambda *_, **__: pytest.fail("long work began"))
    with pytest.raises(ValueError, match=said) as refused:
        colored(**{"video": video, **inputs})
    assert str(refused.value).startswith("Exemplar Colorize Video: ") and "\n" not in str(refused.value)
    assert not files(output)


def test_files_that_are_no_film(colored, tmp_path):
    import wave

    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(b"\0" * 16000)
    (tmp_path / "text.mp4").write_text("no film")
    for name in ("sound.wav", "text.mp4", "missing.mp4"):
        for node in (FindShots.execute, lambda video: colored(video)):
            with pytest.raises(ValueError, match=f"video: .*{name} ") as refused:
                node(video=InputImpl.VideoFromFile(str(tmp_path / name)))
            assert "\n" not in str(refused.value)


def test_an_interlaced_film(colored, tmp_path):
    path = write_film(
        tmp_path / "half.ts", desaturate(moving(10, 64, 64)), rate=25, codec="mpeg2video", interlaced=True
    )
    video = InputImpl.VideoFromFile(str(path))
    with pytest.raises(ValueError, match=r"video: half.ts is interlaced.*deinterlace"):
        colored(video)
    assert colored(video, deinterlace=True, codec="ffv1").result[0].get_dimensions() == (64, 64)


def test_key_frames_are_given(colored, video):
    """At their frames the film has their colors."""
    truth = moving()
    keys = truth[[2, 8]]
    made = colored(video, reference=None, key_frames=keys, key_frame_numbers="2; 8", codec="ffv1").result
    found = frames_of(made[0].get_stream_source())
    apart = (rgb_to_lab(found)[..., 1:] - rgb_to_lab(truth)[..., 1:]).norm(dim=-1).mean((1, 2))
    assert float(apart[[2, 8]].max()) < 2.5 and float(apart.max()) < 12, apart
    half = torch.zeros(1, 48, 64)
    half[..., :32] = 1
    masked = colored(video, key_frames=keys, key_frame_numbers="2 8", key_frame_mask=half, codec="ffv1").result
    assert not torch.equal(frames_of(masked[0].get_stream_source()), found)


def test_a_surest_frame_is_colored_by_the_thorough_method(colored, video):
    made = colored(video, key_method="thorough", codec="ffv1")
    assert len(made.result[2]) == 2


def test_a_memory_and_a_shot_in_color(nodes, embedded, scene, colored, tmp_path):
    model, _, vae, empty = embedded
    look = {"model": model, "vae": vae, "conditioning": empty, "resolution": 64}
    (memory,) = nodes("ExemplarColorMemory", references=scene[1], **look)
    pictures = moving()
    pictures[:6] = desaturate(pictures[:6])
    path = write_film(tmp_path / "half.mp4", pictures)
    for reference in (None, scene[1]):
        made = colored(InputImpl.VideoFromFile(str(path)), memory=memory, reference=reference, codec="ffv1").result
        assert made[2][1] == 1.0 and made[2][0] < 1
        assert float((frames_of(made[0].get_stream_source())[6:] - frames_of(path)[6:]).abs().max()) < 0.01


def test_memory_that_runs_out(kit, colored, video, caplog, output):
    """A shot begins anew with half as many frames at once."""
    expected = frames_of(colored(video, codec="ffv1", batch=4).result[0].get_stream_source())

    def scarce(rows):
        if rows > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with caplog.at_level(logging.WARNING), kit.watched("unet", scarce):
        made = colored(video, codec="ffv1", batch=4, filename_prefix="less").result
    assert "Out of memory; going on with 2 frame(s) at once." in caplog.messages
    assert float((frames_of(made[0].get_stream_source()) - expected).abs().max()) < 0.02
