"""Films read: colors, times, any frame by its number, and what is refused."""

import io
import logging
from fractions import Fraction
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from comfyui_exemplar.files.films import open_film
from comfyui_exemplar.files.films.facts import colors_of

from ...fixtures.film_files import filled, picture, write_film

av = pytest.importorskip("av")
FFV1 = {"codec": "ffv1", "container": "matroska"}


def film(frames, **settings):
    file = io.BytesIO()
    write_film(file, frames, **{**FFV1, **settings})
    file.seek(0)
    return file


def first(file, **options):
    return next(iter(open_film(file, **options).frames())).picture


@pytest.mark.parametrize(
    ("size", "matrix", "red"),
    [
        ((640, 480), "smpte170m", (81, 90, 240)),
        ((1280, 720), "bt709", (63, 102, 240)),
        ((960, 720), "bt709", (63, 102, 240)),
    ],
)
def test_untagged(size, matrix, red, caplog):
    """Red in the codes of the matrix that is assumed; FFmpeg's own way gives BT.601's for all."""
    file = film([filled("yuv420p", red, *size)], pix_fmt="yuv420p")
    with caplog.at_level(logging.INFO):
        found = open_film(file)
    assert found.facts.matrix == matrix and not found.facts.full_range
    name = "BT.709" if matrix == "bt709" else "BT.601"
    assert any(name in sentence for sentence in found.facts.assumed) and name in caplog.text
    assert torch.allclose(first(file), torch.tensor([1.0, 0, 0]), atol=0.012)


def test_tagged_is_honored():
    red = filled("yuv444p", (63, 102, 240))
    file = film([red], colorspace=1, color_range=1, color_primaries=1, color_trc=1)
    found = open_film(file)
    assert (found.facts.matrix, found.facts.full_range, found.facts.assumed) == ("bt709", False, ())
    assert (found.facts.primaries, found.facts.transfer) == ("bt709", "bt709")
    assert torch.allclose(first(file), torch.tensor([1.0, 0, 0]), atol=0.012)


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p12le", "yuv444p16le"])
@pytest.mark.parametrize("full", [False, True])
def test_white_is_one(pixels, full):
    bits = av.VideoFormat(pixels, 64, 48).components[0].bits
    unit = 2 ** (bits - 8)
    white, black = (2**bits - 1, 0) if full else (235 * unit, 16 * unit)
    frames = [filled(pixels, (code, 128 * unit, 128 * unit)) for code in (white, black)]
    file = film(frames, pix_fmt=pixels, color_range=2 if full else 1)
    found = open_film(file)
    assert found.facts.full_range == full and found.facts.bits == bits
    one, zero = (frame.picture for frame in found.frames())
    assert one.eq(1).all() and zero.eq(0).all()


@pytest.mark.parametrize("pixels", ["gray", "gray10le", "gray16le", "gbrp10le", "gbrp16le", "rgb48le", "bgr0"])
def test_gray_and_rgb(pixels):
    given = (picture(0).numpy() * 65535).round().astype("u2")
    frame = av.VideoFrame.from_ndarray(given, "rgb48le")
    if pixels == "bgr0":  # swscale's way from 16 bits is not ours to judge
        given = given // 257 * 257
        frame = av.VideoFrame.from_ndarray((given // 257).astype("u1"), "rgb24")
    if pixels.startswith("gray"):
        frame = av.VideoFrame.from_ndarray(given[..., 0].copy(), "gray16le")
    file = film([frame.reformat(format=pixels)], pix_fmt=pixels)
    found = open_film(file)
    made = first(file)
    wanted = torch.from_numpy(given / 65535.0).float()
    wanted = wanted[..., :1].expand(-1, -1, 3) if pixels.startswith("gray") else wanted
    assert (made - wanted).abs().max() <= 0.51 / (2**found.facts.bits - 1) * (2 if found.facts.bits < 16 else 1) + 1e-6
    assert found.facts.full_range


@pytest.mark.parametrize(
    ("packed", "planes"),
    [
        ("nv12", "yuv420p"),
        ("p010le", "yuv420p10le"),
        ("yuyv422", "yuv422p"),
        ("uyvy422", "yuv422p"),
        ("rgb24", "gbrp"),
        ("rgb48le", "gbrp16le"),
    ],
)
def test_moving_samples_changes_none(packed, planes):
    """swscale's part: planes packed together and taken apart again, whatever range and matrix are said to be."""
    from comfyui_exemplar.files.films.pixels import planar

    random = np.random.default_rng(0)
    frame = av.VideoFrame(64, 48, planes)
    bits = frame.format.components[0].bits
    for plane in frame.planes:
        kind = np.uint8 if bits <= 8 else np.uint16
        data = np.frombuffer(plane, kind)
        data[:] = random.integers(0, 2**bits, data.shape)
    for tagged in (0, 1, 2):
        frame.color_range = tagged
        other = frame.reformat(format=packed, src_color_range=2, dst_color_range=2)
        other.color_range, other.colorspace = tagged, 1
        again = planar(other)
        assert again.format.name == planes
        for one, two in zip(frame.planes, again.planes, strict=True):
            rows = [np.frombuffer(each, kind).reshape(each.height, -1)[:, : each.width] for each in (one, two)]
            assert (rows[0] == rows[1]).all()


def test_shrinking_keeps_range_and_matrix():
    red = (63, 102, 240)
    file = film([filled("yuv420p", red, 1280, 720)], pix_fmt="yuv420p")
    (small,) = open_film(file).small(160)
    assert small.picture.shape == (90, 160, 3)
    assert (small.picture - first(file)[:90, :160]).abs().max() < 1e-6


CLIPS = {
    "h264": {"codec": "libx264", "container": "mp4", "options": {"g": "12", "bf": "2"}},
    "open": {
        "codec": "libx264",
        "container": "matroska",
        "options": {"g": "12", "bf": "3", "x264-params": "open-gop=1:b-pyramid=0"},
    },
    "hevc": {"codec": "libx265", "container": "mp4", "options": {"x265-params": "keyint=12:log-level=error"}},
    "mpeg2": {"codec": "mpeg2video", "container": "mpegts", "options": {"g": "12", "bf": "2"}, "pix_fmt": "yuv420p"},
    "avi": {"codec": "mpeg4", "container": "avi", "options": {"g": "12", "bf": "0"}, "pix_fmt": "yuv420p"},
    "ffv1": FFV1,
}


@pytest.mark.parametrize("kind", CLIPS)
@pytest.mark.parametrize("seen", [True, False])
def test_any_frame_by_its_number(kind, seen):
    """The same pixels and times, whether frames before were decoded or sought over."""
    file = io.BytesIO()
    write_film(file, [picture(time) for time in range(40)], **CLIPS[kind])
    whole = list(open_film(file).frames())
    assert [frame.index for frame in whole] == list(range(40))
    found = open_film(file)
    if seen:
        assert len(list(found.small(16))) == 40
    for start, stop in ((0, 3), (25, 27), (13, 14), (11, 12), (38, None), (39, 40), (5, 30), (12, 13), (24, 25)):
        part = list(found.frames(start, stop))
        assert [frame.index for frame in part] == list(range(start, 40 if stop is None else stop))
        for frame in part:
            same = whole[frame.index]
            assert (frame.pts, frame.duration) == (same.pts, same.duration)
            assert frame.picture.equal(same.picture), (kind, frame.index)
    assert not found.notes
    assert list(found.frames(40)) == []


def test_two_readers_at_once_and_one_file_object():
    file = film([picture(time) for time in range(12)])
    found = open_film(file)
    ahead, behind = found.frames(), found.frames()
    for _ in range(6):
        next(ahead)
    assert next(behind).index == 0 and next(ahead).index == 6 and next(behind).index == 1


def test_uneven_times():
    times = [0, 1, 2, 5, 6, 20, 21]
    file = film(
        [picture(time) for time in times],
        container="mov",
        codec="prores_ks",
        pix_fmt="yuv422p10le",
        times=times,
        base=Fraction(1, 30),
    )
    found = open_film(file)
    shown = [(frame.pts * found.facts.time_base, frame.duration * found.facts.time_base) for frame in found.frames()]
    assert [pts for pts, _ in shown] == [Fraction(time, 30) for time in times]
    assert [duration for _, duration in shown[:-1]] == [Fraction(b - a, 30) for a, b in pairwise(times)]


def test_a_part_of_a_film():
    """As ComfyUI's trimmed VIDEO: from a time on, for some seconds."""
    file = film([picture(time) for time in range(30)])
    found = open_film(file, start=0.4, duration=0.4)
    whole = list(open_film(file).frames())
    part = list(found.frames())
    assert len(part) == 10 and part[0].pts == 0 and part[0].index == 0 and found.facts.frames is None
    assert all(frame.picture.equal(whole[frame.index + 10].picture) for frame in part)
    assert next(iter(found.frames(4))).picture.equal(whole[14].picture)
    assert len(list(open_film(file, start=-0.2).frames())) == 5


def interlaced(frames=8):
    """Fields of a ramp that moves, by FFmpeg's own filter."""
    pictures = [picture(time, 96, 64) for time in range(frames)]
    return film(
        pictures,
        codec="mpeg2video",
        container="mpegts",
        pix_fmt="yuv420p",
        options={"flags": "+ildct+ilme"},
        field_order=2,
    )


def test_interlaced_is_named():
    file = interlaced()
    with pytest.raises(ValueError, match="is interlaced: two half frames lie in every frame"):
        open_film(file)
    found = open_film(file, deinterlace=True)
    frames = list(found.frames())
    assert found.facts.interlaced and len(frames) == 8
    assert {frame.duration for frame in frames} == {3600}, "of the last one, too"
    for start in (3, 6):
        assert next(iter(found.frames(start))).picture.equal(frames[start].picture)
    assert (frames[4].picture - picture(4, 96, 64)).abs().mean() < 0.02


@pytest.mark.parametrize("newer", [True, False])
def test_what_frames_of_an_older_pyav_do_not_tell_the_decoder_does(newer):
    """``color_primaries`` and ``color_trc`` of frames came with PyAV 17; ComfyUI asks for 16."""
    codec = SimpleNamespace(color_primaries=9, color_trc=16)
    frame = SimpleNamespace(
        colorspace=9, color_range=1, width=64, height=48, format=av.VideoFormat("yuv420p10le", 64, 48)
    )
    if newer:
        frame.color_primaries, frame.color_trc = 1, 13
    colors = colors_of(frame, codec)
    assert (colors.primaries, colors.transfer) == (("bt709", "iec61966-2-1") if newer else ("bt2020", "smpte2084"))


def test_progressive_stays_when_deinterlacing_is_asked_for():
    file = film([picture(0), picture(1)])
    assert first(file, deinterlace=True).equal(first(file))


def test_pixels_that_are_not_square():
    found = open_film(film([picture(0)], codec="libx264", container="mp4", sample_aspect_ratio=Fraction(16, 11)))
    assert found.facts.aspect == Fraction(16, 11)


def test_cut_off(tmp_path, caplog):
    """What can be read comes, and it is said."""
    frames = [picture(time) for time in range(30)]
    write_film(tmp_path / "a.mkv", frames, sound="pcm", **FFV1)
    with av.open(str(tmp_path / "b.mp4"), "w", options={"movflags": "faststart"}) as output:
        stream = output.add_stream("libx264", rate=25, options={"threads": "2", "qp": "10", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv444p"
        for number, each in enumerate(frames):
            frame = av.VideoFrame.from_ndarray((each.numpy() * 255).astype("u1"), "rgb24")
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    for name, said in (("a.mkv", "lasts 1.2"), ("b.mp4", "of 30 frames could be read")):
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) * 2 // 3])
        found = open_film(tmp_path / name)
        count = len(list(found.frames()))
        assert 3 < count < 29
        assert f"{name} ends early: {count} " in caplog.text and said in caplog.text
        assert len(list(found.frames(2))) == count - 2
        assert any("ends early" in note for note in found.notes)


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.mov", "a.avi"])
def test_a_whole_film_is_not_called_cut_off(tmp_path, name):
    settings = {"a.mkv": FFV1, "a.avi": {"codec": "mpeg4", "pix_fmt": "yuv420p"}}.get(name, {})
    found = open_film(write_film(tmp_path / name, [picture(time) for time in range(9)], sound="pcm", **settings))
    assert len(list(found.frames())) == 9 and not found.notes


def test_what_is_no_film(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.mp4 does not exist"):
        open_film(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="is a folder; a film is a file"):
        open_film(tmp_path)
    with pytest.raises(ValueError, match="is an address"):
        open_film("https://example.org/a.mp4")
    av.VideoFrame.from_ndarray(np.zeros((8, 8, 3), "u1"), "rgb24").save(str(tmp_path / "a.png"))
    (tmp_path / "list.ffconcat").write_text("ffconcat version 1.0\nfile 'a.mkv'\n")
    write_film(tmp_path / "a.mkv", [picture(0)], **FFV1)
    (tmp_path / "a.m3u8").write_text("#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:1,\na.mkv\n#EXT-X-ENDLIST\n")
    (tmp_path / "broken.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(200))
    (tmp_path / "empty.mkv").write_bytes(b"")
    for name in ("a.png", "list.ffconcat", "a.m3u8", "broken.mp4", "empty.mkv"):
        with pytest.raises(ValueError, match="could not be opened as a film"):
            open_film(tmp_path / name)
    with av.open(str(tmp_path / "sound.mp4"), "w") as output:
        stream = output.add_stream("aac", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), "f4"), "fltp", "mono")
        frame.sample_rate = 48000
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with pytest.raises(ValueError, match=r"holds no film that can be decoded \(found: audio\)"):
        open_film(tmp_path / "sound.mp4")


@pytest.mark.skipif(not hasattr(av.video.stream.VideoStream, "set_display_rotation"), reason="this PyAV marks none")
@pytest.mark.parametrize(("degrees", "white"), [(90, "left"), (-90, "right"), (180, "bottom")])
def test_upright(degrees, white):
    """The upper half is white; counterclockwise by 90 degrees it comes to the left."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=25, options={"threads": "2", "qp": "4"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv444p"
        stream.set_display_rotation(float(degrees))
        frame = av.VideoFrame.from_ndarray(
            (np.arange(48) < 24)[:, None, None].repeat(64, 1).repeat(3, 2) * np.uint8(255)
        )
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    file.seek(0)
    found, shown = open_film(file), first(file)
    assert (found.facts.height, found.facts.width, 3) == shown.shape == ((64, 48, 3) if degrees % 180 else (48, 64, 3))
    part = {"left": shown[:, :20], "right": shown[:, -20:], "bottom": shown[-20:]}[white]
    assert part.mean() > 0.97 and shown.mean() < 0.55
