"""What goes into a film's file beside the pictures."""

from fractions import Fraction

import numpy as np
import pytest

from comfyui_exemplar.files.films import FilmOutput, open_film

from ...fixtures.film_files import picture, write_film
from .test_writing import write

av = pytest.importorskip("av")


def test_sound_that_the_containers_writer_refuses_is_refused_before_the_work(tmp_path):
    """FFmpeg lists FLAC among what MOV takes, and then does not begin to write it."""
    path = write_film(tmp_path / "a.mkv", [picture(0), picture(1)], codec="ffv1")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=48000, layout="mono")
        video = container.add_stream("ffv1", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv444p"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), "i2"), "s16", "mono")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        container.mux(video.encode(av.VideoFrame(64, 48, "yuv444p")))
        container.mux(video.encode(None))
    film = open_film(path)
    with pytest.raises(
        ValueError, match=r"\.mov does not take the film's sound \(flac\) as it is; choose \.mkv, or leave"
    ):
        FilmOutput(tmp_path / "b.mov", "prores", film, {}).check()
    FilmOutput(tmp_path / "b.mkv", "ffv1", film, {}).check()
    FilmOutput(tmp_path / "b.mov", "prores", film, {}, sound=False).check()


@pytest.mark.parametrize(("codec", "suffix"), [("ffv1", ".mkv"), ("h264", ".mp4"), ("prores", ".mov")])
def test_chapters_stay(tmp_path, codec, suffix):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv444p"
        named = [
            {"id": number, "start": start, "end": end, "time_base": Fraction(1, 1000), "metadata": {"title": title}}
            for number, start, end, title in ((1, 0, 200, "one"), (2, 200, 480, "two"))
        ]
        container.set_chapters(named)
        for number in range(12):
            frame = av.VideoFrame.from_ndarray((picture(number).numpy() * 255).astype("u1"), "rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    film = open_film(path)
    made = write(tmp_path / f"b{suffix}", codec, film).finish()
    with av.open(str(made)) as container:
        found = [(float(each["start"] * each["time_base"]), each["metadata"]["title"]) for each in container.chapters()]
    assert found == [(0.0, "one"), (pytest.approx(0.2), "two")]
