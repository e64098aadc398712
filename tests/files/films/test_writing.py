"""Films written: colors of each codec, times, sound, what is refused, and that a stopped run goes on."""

import errno
import logging
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from comfyui_exemplar.files import saving
from comfyui_exemplar.files.films import CODECS, FilmOutput, open_film
from comfyui_exemplar.files.films.segments import SegmentWriter
from comfyui_exemplar.files.pictures import read_photograph

from ...fixtures.film_files import picture, sound_of, write_film

av = pytest.importorskip("av")
SHOTS = [(0, 5), (5, 12)]
#: Mean error of these smooth pictures in levels of 255, above what rounding alone makes at the codec's bits.
WAYS = [(name, suffix) for name, codec in CODECS.items() for suffix in codec.suffixes if suffix]


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Films by name: ``films(height=, width=, ...)``."""
    folder, made = tmp_path_factory.mktemp("films"), {}

    def film(height=128, width=256, **settings):
        key = repr((height, width, settings))
        if key not in made:
            path = folder / f"{len(made)}.mkv"
            frames = [picture(time, height, width) for time in range(12)]
            write_film(path, frames, **{"codec": "ffv1", "sound": "pcm", **settings})
            made[key] = path
        return open_film(made[key])

    return film


def write(path, codec, film, shots=SHOTS, **options):
    output = FilmOutput(path, codec, film, {"input": "a"}, **options)
    output.check()
    whole = output.begin(shots)
    for number, (start, stop) in enumerate(shots):
        if number in whole:
            continue
        with output.shot(number) as shot:
            for frame in film.frames(start, stop):
                shot.write(frame, picture(frame.index, film.facts.height, film.facts.width))
            shot.scores["mean"] = number / 2
    return output


@pytest.mark.parametrize(("codec", "suffix"), WAYS)
def test_colors_times_and_sound(films, tmp_path, codec, suffix):
    film = films()
    path = tmp_path / f"a{suffix}"
    assert write(path, codec, film).finish() == path
    back = open_film(path)
    frames = list(back.frames())
    assert [frame.pts * back.facts.time_base for frame in frames] == [Fraction(time, 25) for time in range(12)]
    assert len(frames) == 12 and frames[-1].duration * back.facts.time_base == Fraction(1, 25)
    off = max((frame.picture - picture(frame.index, 128, 256)).abs().mean().item() * 255 for frame in frames)
    assert off < 1, off
    assert back.facts.bits >= CODECS[codec].bits
    assert not any("matrix" in sentence for sentence in back.facts.assumed)
    assert list(tmp_path.iterdir()) == [path]
    sounds = [b"".join(data for _, data in sound_of(each)) for each in (path, film._source._file)]
    # MXF ends its sound with the last picture
    assert sounds[1].startswith(sounds[0]) and len(sounds[0]) == (46_080 if suffix == ".mxf" else 47_104)


def in_numpy(shown, pixels, matrix):
    """A picture as a frame of limited range, by the formulas of BT.601 and BT.709; chroma by means of neighbors."""
    red, _, blue = weights = {"smpte170m": (0.299, 0.587, 0.114), "bt709": (0.2126, 0.7152, 0.0722)}[matrix]
    rgb = shown.double().numpy()
    y = rgb @ weights
    frame = av.VideoFrame(shown.shape[1], shown.shape[0], pixels)
    unit = 2.0 ** (frame.format.components[0].bits - 8)
    codes = [
        16 + 219 * y,
        128 + 112 * (rgb[..., 2] - y) / (1 - blue),
        128 + 112 * (rgb[..., 0] - y) / (1 - red),
    ]
    for plane, values in zip(frame.planes, codes, strict=True):
        values = values.reshape(plane.height, -(-len(y) // plane.height), plane.width, -1).mean((1, 3))
        kind = np.uint8 if unit == 1 else np.uint16
        rows = np.frombuffer(plane, kind)[: plane.height * plane.line_size // kind().itemsize].reshape(plane.height, -1)
        rows[:, : plane.width] = np.rint(values * unit)
    return frame


@pytest.mark.parametrize("codec", ["ffv1", "prores", "dnxhr", "h264", "hevc-10"])
def test_nothing_is_added_to_the_codecs_own_error(films, tmp_path, codec):
    """Beside FFmpeg's own encoder, given planes that were rounded from the same floats in numpy."""
    film, suffix = films(), CODECS[codec].suffixes[0]
    output = write(tmp_path / f"a{suffix}", codec, film, sound=False)
    told = output.encoding
    theirs = write_film(
        tmp_path / f"b{suffix}",
        [in_numpy(picture(time, 128, 256), told.pixels, told.matrix) for time in range(12)],
        codec=told.encoder,
        pix_fmt=told.pixels,
        options=dict(told.options),
        colorspace={"smpte170m": 6, "bt709": 1}[told.matrix],
        color_range=1,
    )
    errors = []
    for path in (output.finish(), theirs):
        frames = [frame.picture - picture(frame.index, 128, 256) for frame in open_film(path).frames()]
        errors.append(torch.stack(frames) * 255)
    ours, own = errors
    assert ours.abs().mean() < own.abs().mean() + 0.02, (ours.abs().mean(), own.abs().mean())
    assert ours.mean(dim=(0, 1, 2)).abs().max() < own.mean(dim=(0, 1, 2)).abs().max() + 0.05, "no cast"


@pytest.mark.parametrize("codec", ["ffv1", "h264", "hevc", "prores", "dnxhr"])
@pytest.mark.parametrize("matrix", ["bt709", "bt2020nc", "smpte170m"])
def test_colors_are_tagged(films, tmp_path, codec, matrix):
    """What the film says is said again, and read the same by FFmpeg's own conversion."""
    number = {"bt709": 1, "bt2020nc": 9, "smpte170m": 6}[matrix]
    film = films(colorspace=number, color_range=1, color_primaries=number, color_trc=1)
    path = write(tmp_path / f"a{CODECS[codec].suffixes[0]}", codec, film, sound=False).finish()
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        assert int(frame.colorspace) == (1 if codec == "dnxhr" else number)
        assert int(getattr(frame, "color_trc", 1)) == 1
        if codec != "dnxhr":  # which names primaries by its matrix
            assert int(getattr(frame, "color_primaries", number)) == number
        theirs = torch.from_numpy(frame.to_ndarray(format="rgb24") / 255.0)
    assert (theirs - picture(0, 128, 256)).abs().mean() < 2.5 / 255


@pytest.mark.parametrize("codec", ["ffv1", "prores4444", "h264", "hevc", "dnxhr"])
def test_odd_sizes(films, tmp_path, codec, caplog):
    film = films(height=121, width=257)
    with caplog.at_level(logging.INFO):
        output = write(tmp_path / f"a{CODECS[codec].suffixes[0]}", codec, film, sound=False)
    back = open_film(output.finish())
    assert (back.facts.width, back.facts.height) == (257, 121)
    frame = next(iter(back.frames()))
    assert (frame.picture - picture(0, 121, 257)).abs().mean() < 1 / 255
    assert ("all chroma is kept" in caplog.text) == (codec in ("h264", "hevc"))


def test_uneven_times_stay(films, tmp_path):
    times = [0, 7, 9, 40, 41, 90, 91, 92, 93, 300, 301, 360]
    film = films(codec="ffv1", times=times, base=Fraction(1, 1000), rate=30)
    given = [(frame.pts, frame.duration) for frame in film.frames()]
    for codec, suffix in (("ffv1", ".mkv"), ("prores", ".mov"), ("h264", ".mp4"), ("h264", ".mov"), ("hevc", ".mkv")):
        back = open_film(write(tmp_path / f"{codec}{suffix}", codec, film).finish())
        found = [(frame.pts * back.facts.time_base, frame.duration * back.facts.time_base) for frame in back.frames()]
        assert [pts for pts, _ in found] == [Fraction(pts, 1000) for pts, _ in given], codec
        assert [each for _, each in found[:-1]] == [Fraction(each, 1000) for _, each in given[:-1]]
    with pytest.raises(ValueError, match=r"Frame \d+ is not where a constant rate of .* MXF knows no other"):
        write(tmp_path / "a.mxf", "prores", film, sound=False)


def test_rate_of_the_cinema_stays_exact(films, tmp_path):
    """24000/1001 frames a second, from MOV to MOV: no rounding anywhere."""
    frames = [picture(time, 48, 64) for time in range(12)]
    path = tmp_path / "a.mov"
    write_film(path, frames, codec="prores_ks", pix_fmt="yuv422p10le", rate=Fraction(24000, 1001))
    film = open_film(path)
    for suffix in (".mov", ".mxf"):
        back = open_film(write(tmp_path / f"b{suffix}", "prores", film).finish())
        times = [frame.pts * back.facts.time_base for frame in back.frames()]
        assert times == [Fraction(1001 * number, 24000) for number in range(12)], suffix


def test_a_rate_that_matroska_rounded_is_even_again_where_it_can_be(films, tmp_path):
    """41 and 42 milliseconds in turn would be a film of a variable rate to an editing program."""
    film = films(rate=Fraction(24000, 1001))
    assert {frame.duration for frame in film.frames()} == {41, 42}
    for suffix, codec in ((".mov", "prores"), (".mp4", "h264"), (".mkv", "ffv1")):
        back = open_film(write(tmp_path / f"b{suffix}", codec, film).finish())
        frames = list(back.frames())
        lengths = {frame.duration * back.facts.time_base for frame in frames}
        times = [frame.pts * back.facts.time_base for frame in frames]
        if suffix == ".mkv":
            assert times == [frame.pts * film.facts.time_base for frame in film.frames()]
        else:
            assert times == [number * Fraction(1001, 24000) for number in range(12)]
            assert lengths == {Fraction(1001, 24000)} and back.facts.rate == Fraction(24000, 1001)


def test_timecode_aspect_and_names(films, tmp_path):
    film = films(metadata={"timecode": "01:02:03:04", "title": "A film"})
    film.facts = replace(film.facts, aspect=Fraction(16, 11))
    names = ("a.mov", "a.mkv", "a.mxf", "a.mp4")
    for name in names:
        codec = "h264" if name in ("a.mp4", "a.mkv") else "dnxhr"
        path = write(tmp_path / name, codec, film).finish()
        assert open_film(path).facts.timecode == "01:02:03:04", name
        assert open_film(path).facts.aspect == (1 if name == "a.mxf" else Fraction(16, 11)), name
    output = FilmOutput(tmp_path / "b.mxf", "dnxhr", film, {})
    output.check()
    assert "pixels are not square (16/11)" in output.notes[0]


def test_same_bytes_in_every_run(films, tmp_path):
    film = films()
    for codec, suffix in WAYS:
        paths = [write(tmp_path / f"{n}{suffix}", codec, film).finish() for n in range(2)]
        assert paths[0].read_bytes() == paths[1].read_bytes(), (codec, suffix)
        [path.unlink() for path in paths]


@pytest.mark.parametrize("codec", ["png", "tiff", "exr"])
def test_pictures(films, tmp_path, codec):
    film = films(height=16, width=24)
    folder = write(tmp_path / "a", codec, film).finish()
    names = sorted(path.name for path in folder.iterdir())
    suffix = CODECS[codec].encoder
    assert names == [*(f"frame_{number:08}{suffix}" for number in range(1, 13)), "timestamps.txt"]
    found = read_photograph(folder / names[3]).images[0]
    assert (found - picture(3, 16, 24)).abs().max() < (1e-3 if codec == "exr" else 1e-5)
    assert (folder / "timestamps.txt").read_text().splitlines()[2] == "40.000000"
    assert list(tmp_path.iterdir()) == [folder]
    with pytest.raises(ValueError, match=r"holds frame_.* already, which is not replaced"):
        write(folder, codec, film)
    assert write(folder, codec, film, overwrite=True).finish() == folder


def test_goes_on(films, tmp_path):
    """The second run writes what the first did not, and gives the same bytes."""
    film = films()
    whole = write(tmp_path / "whole.mkv", "ffv1", film).finish().read_bytes()
    path = tmp_path / "a.mkv"
    output = FilmOutput(path, "ffv1", film, {"input": "a"})
    assert output.begin(SHOTS) == {}
    with output.shot(0) as shot:
        for frame in film.frames(*SHOTS[0]):
            shot.write(frame, picture(frame.index, 128, 256))
        shot.scores["mean"] = 0.25
    with pytest.raises(KeyboardInterrupt), output.shot(1) as shot:
        shot.write(next(iter(film.frames(5))), picture(5, 128, 256))
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="1 shots are not written yet, the first is 1"):
        output.finish()
    assert not path.exists()
    again = FilmOutput(path, "ffv1", film, {"input": "a"})
    assert again.begin(SHOTS) == {0: {"mean": 0.25}}
    assert write(path, "ffv1", film).finish().read_bytes() == whole


def test_a_damaged_segment_or_journal_counts_as_missing(films, tmp_path):
    film, path = films(), tmp_path / "a.mkv"
    output = write(path, "ffv1", film)
    segment = output.parts / "shot_00001.segment"
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    assert set(FilmOutput(path, "ffv1", film, {"input": "a"}).begin(SHOTS)) == {0}
    journal = output.parts / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-9])
    again = FilmOutput(path, "ffv1", film, {"input": "a"})
    assert set(again.begin(SHOTS)) == {0}
    write(path, "ffv1", film).finish()
    assert len(list(open_film(path).frames())) == 12


def test_other_work_is_refused(films, tmp_path):
    film, path = films(), tmp_path / "a.mkv"
    write(path, "ffv1", film)
    differ = r"parts holds shots of other work: input \(a, now b\), model \(none, now c\) differ"
    with pytest.raises(ValueError, match=differ):
        FilmOutput(path, "ffv1", film, {"input": "b", "model": "c"}).check()
    with pytest.raises(ValueError, match=r"other work: codec \(ffv1, now ffv1-8\), colors \(.*\) differ"):
        FilmOutput(path, "ffv1-8", film, {"input": "a"}).check()
    with pytest.raises(ValueError, match="other work: shots differ"):
        FilmOutput(path, "ffv1", film, {"input": "a"}).begin([(0, 12)])


def test_what_others_made_stays(films, tmp_path):
    film, path = films(), tmp_path / "a.mkv"
    path.write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"a\.mkv is there already and is not replaced"):
        FilmOutput(path, "ffv1", film, {}).check()
    assert path.read_bytes() == b"mine"
    write(path, "ffv1", film, overwrite=True).finish()
    assert len(list(open_film(path).frames())) == 12
    (tmp_path / "b.mkv.parts").mkdir()
    (tmp_path / "b.mkv.parts" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds no journal of a film"):
        FilmOutput(tmp_path / "b.mkv", "ffv1", film, {}).check()
    late = write(tmp_path / "c.mkv", "ffv1", film)
    (tmp_path / "c.mkv").write_bytes(b"mine")
    with pytest.raises(ValueError, match="written by somebody else in the meantime"):
        late.finish()
    assert (tmp_path / "c.mkv").read_bytes() == b"mine"
    (tmp_path / "c.mkv").unlink()
    assert write(tmp_path / "c.mkv", "ffv1", film).finish().stat().st_size > 1000


def test_full_disk(films, tmp_path, monkeypatch):
    """One error; what is whole stays, and the next run goes on to the same bytes."""
    film, path = films(), tmp_path / "a.mkv"
    whole = write(tmp_path / "whole.mkv", "ffv1", film).finish().read_bytes()
    own, count = SegmentWriter.write, [0]

    def full(self, packet):
        count[0] += 1
        if count[0] > 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        own(self, packet)

    with monkeypatch.context() as patched:
        patched.setattr(SegmentWriter, "write", full)
        with pytest.raises(OSError, match="the disk is full; make room"):
            write(path, "ffv1", film)
    assert sorted(each.name for each in (tmp_path / "a.mkv.parts").iterdir()) == [
        ".writing-lock",
        "journal.jsonl",
        "shot_00000.segment",
    ]

    class Full:
        def __init__(self, file):
            self._file = file

        def __getattr__(self, name):
            return getattr(self._file, name)

        def write(self, data):
            if self._file.tell() + len(data) > 60_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self._file.write(data)

    from comfyui_exemplar.files.films import muxing

    mux = muxing.mux
    output = write(path, "ffv1", film)
    with monkeypatch.context() as patched:
        patched.setattr(muxing, "mux", lambda file, *rest: mux(Full(file), *rest))
        with pytest.raises(OSError, match="the disk is full; make room"):
            output.finish()
    assert not path.exists()
    assert write(path, "ffv1", film).finish().read_bytes() == whole


def test_what_does_not_fit(films, tmp_path):
    film = films()
    for path, codec, said in (
        ("a.mp4", "ffv1", r"ends in '\.mp4'; give a name that ends in \.mkv\. For \.mp4 there is h264"),
        ("a", "ffv1", "has no suffix"),
        ("a.mkv", "png", "writes a folder of pictures"),
        ("a.mkv", "vp9", "no codec 'vp9'; choose one of ffv1"),
    ):
        with pytest.raises(ValueError, match=said):
            FilmOutput(tmp_path / path, codec, film, {})
    with pytest.raises(ValueError, match="is 24 x 16; dnxhr takes no less than 256 x 120"):
        FilmOutput(tmp_path / "a.mov", "dnxhr", films(height=16, width=24), {})
    with pytest.raises(ValueError, match=r"\.mxf does not take the film's sound \(aac\)"):
        FilmOutput(tmp_path / "a.mxf", "dnxhr", films(sound="aac"), {}).check()
    with pytest.raises(ValueError, match="is 257 x 121; prores takes even widths only"):
        FilmOutput(tmp_path / "a.mov", "prores", films(height=121, width=257), {})
    output = FilmOutput(tmp_path / "a.mkv", "ffv1", film, {})
    output.begin(SHOTS)
    with (
        pytest.raises(ValueError, match=r"shape \(8, 8, 3\) for frame 0, expected \(128, 256, 3\)"),
        output.shot(0) as shot,
    ):
        shot.write(next(iter(film.frames())), torch.zeros(8, 8, 3))
    with pytest.raises(ValueError, match=r"Shot 1 \(frames 5 to 11\) has no frame"), output.shot(1):
        pass


def test_pictures_are_written_whole(films, tmp_path, monkeypatch):
    film = films(height=16, width=24)
    own, count = saving._write_png, [0]

    def full(*args):
        count[0] += 1
        if count[0] > 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        own(*args)

    with monkeypatch.context() as patched:
        patched.setattr(saving, "_write_png", full)
        with pytest.raises(OSError, match="the disk is full"):
            write(tmp_path / "a", "png", film)
    assert sorted(each.name for each in (tmp_path / "a.parts").iterdir()) == [
        ".writing-lock",
        "journal.jsonl",
        "shot_00000",
    ]
    assert len(list(write(tmp_path / "a", "png", film).finish().glob("*.png"))) == 12
