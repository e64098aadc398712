"""The command ``film``: from a file to a file, what it says, and what it refuses before any work."""

import errno
import json

import pytest

from comfyui_exemplar import cli
from comfyui_exemplar.color import desaturate, resize, rgb_to_lab
from comfyui_exemplar.demo import model_path
from comfyui_exemplar.files.films import open_film
from comfyui_exemplar.files.pictures import load_picture, save_picture

from ..fixtures.film_files import write_film

pytest.importorskip("av")

PICTURES = model_path().parent / "pictures"
FRAMES, CUT, SIDE = 8, 4, 48
#: Small and quick.
QUICK = ("--resolution", "64", "--key-method", "none", "--batch", "2", "--ahead", "2")


def truth(number):
    name = "drawing-truth.png" if number < CUT else "scene-truth.png"
    return resize(load_picture(PICTURES / name)[:, 20 + number : 320 + number, 10:310], (SIDE, SIDE))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    import av

    folder = tmp_path_factory.mktemp("film")
    with av.open(str(folder / "in.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=24)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv444p"
        for number in range(FRAMES):
            gray = (desaturate(truth(number))[0] * 255).round().byte().numpy()
            frame = av.VideoFrame.from_ndarray(gray, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    save_picture(truth(2), folder / "key.png")
    save_picture(truth(2)[:, :, : SIDE // 2], folder / "narrow.png")
    return folder


def film(place, *more):
    return cli.main(["film", str(place / "in.mkv"), "--cuts", str(CUT), *QUICK, *map(str, more)])


def test_a_film_is_colored_and_what_is_known_of_it_written(place, tmp_path, capsys):
    out = tmp_path / "out.mkv"
    named = ["--key-frame", f"2={place / 'key.png'}", "--reference", PICTURES / "scene-reference.png"]
    assert film(place, *named, "--output", out, "--json", tmp_path / "a.json", "--strip", tmp_path / "a.png") == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [str(out), str(tmp_path / "a.json"), str(tmp_path / "a.png")]
    assert "frames: 100%" in said.err and f"{FRAMES}/{FRAMES}" in said.err
    assert "shot 1 of 2" in said.err and "shot 2 of 2" in said.err
    known = json.loads((tmp_path / "a.json").read_text())
    assert [(shot["start"], shot["stop"], shot["key_frames"]) for shot in known["shots"]] == [
        (0, CUT, [2]),
        (CUT, 8, []),
    ]
    assert [len(shot["match"]) for shot in known["shots"]] == [4, 4]
    assert load_picture(tmp_path / "a.png").shape[0] == 1
    frames = [frame.picture[None] for frame in open_film(out).frames()]
    assert len(frames) == FRAMES
    error = (rgb_to_lab(frames[2])[..., 1:] - rgb_to_lab(truth(2))[..., 1:]).norm(dim=-1).mean()
    assert float(error) < 3, "the key frame has its colors"

    assert film(place, *named, "--output", out) == 1, "an older film is not replaced"
    assert "already" in capsys.readouterr().err
    before = out.read_bytes()
    assert film(place, *named, "--output", out, "--overwrite") == 0
    assert out.read_bytes() == before


def test_a_stopped_run_says_how_to_go_on_and_does(place, tmp_path, capsys, monkeypatch):
    from comfyui_exemplar.files.films.output import ShotWriter

    whole, out = tmp_path / "whole.mkv", tmp_path / "out.mkv"
    named = ["--key-frame", f"2={place / 'key.png'}"]
    assert film(place, *named, "--output", whole) == 0
    write, written = ShotWriter.write, []

    def stopping(self, frame, picture):
        if frame.index == 6:
            raise KeyboardInterrupt
        written.append(frame.index)
        write(self, frame, picture)

    with monkeypatch.context() as patched:
        patched.setattr(ShotWriter, "write", stopping)
        assert film(place, *named, "--output", out) == 130
    assert "the same command goes on" in capsys.readouterr().err and not out.exists()
    assert written == [0, 1, 2, 3, 4, 5]
    written.clear()
    monkeypatch.setattr(ShotWriter, "write", lambda *all: written.append(all[1].index) or write(*all))
    assert film(place, *named, "--output", out) == 0
    assert written == [4, 5, 6, 7], "the first shot is kept"
    assert out.read_bytes() == whole.read_bytes()


def test_a_full_disk_says_how_to_go_on(place, tmp_path, capsys, monkeypatch):
    from comfyui_exemplar.files.films.output import ShotWriter

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ShotWriter, "write", full)
    assert film(place, "--key-frame", f"2={place / 'key.png'}", "--output", tmp_path / "out.mkv") == 1
    said = capsys.readouterr().err
    assert "the disk is full" in said and "the same command goes on with the rest" in said


def test_sound_that_a_container_does_not_take_can_be_left_out(place, tmp_path, capsys):
    frames = [desaturate(truth(number))[0] for number in range(3)]
    write_film(tmp_path / "in.mkv", frames, codec="ffv1", rate=24, sound="aac")
    named = ["film", tmp_path / "in.mkv", "--codec", "prores", "--output", tmp_path / "out.mxf", *QUICK]
    named = [str(each) for each in (*named, "--key-frame", f"2={place / 'key.png'}")]
    assert cli.main(named) == 1
    assert "--no-sound" in capsys.readouterr().err
    assert cli.main([*named, "--no-sound"]) == 0
    assert open_film(tmp_path / "in.mkv").facts.audio == 1 and open_film(tmp_path / "out.mxf").facts.audio == 0


def test_shots_alone_need_no_color(place, tmp_path, capsys):
    assert (
        cli.main(["film", str(place / "in.mkv"), "--shots-only", "--shortest", "2", "--json", str(tmp_path / "s.json")])
        == 0
    )
    assert capsys.readouterr().out.splitlines() == ["0-3", "4-7", str(tmp_path / "s.json")]


@pytest.mark.parametrize(
    "named, said",
    [
        (("--key-frame", "8=key.png"), "frame 8: the film has no such frame"),
        (("--key-frame", "2=narrow.png"), "expected the proportions of the film"),
        (("--key-frame", "2=missing.png"), "missing.png"),
        (("--key-frame", "2=key.png", "--output", "key.png"), "key.png"),
        (("--key-frame", "2=key.png", "--steadiness", "2"), "--steadiness is 2"),
        (("--key-frame", "2=key.png", "--output", "a.avi"), "a.avi: films are not written as .avi; choose .mp4, .mov"),
        (
            ("--key-frame", "2=key.png", "--output", "a.mp4", "--codec", "prores"),
            "ends in .mov or .mxf. For .mp4",
        ),
        (("--key-frame", "2=key.png", "--cuts", "soon"), "cuts: found 'soon'"),
    ],
)
def test_what_does_not_fit_is_one_line(place, capsys, monkeypatch, named, said):
    monkeypatch.chdir(place)
    assert film(place, *named) == 1
    (line,) = [each for each in capsys.readouterr().err.splitlines() if each.startswith("error: ")]
    assert said in line
    assert not [*place.glob("in_colored*")]


@pytest.mark.parametrize("named", [(), ("--key-frame", "key.png"), ("--key-frame", "x=key.png")])
def test_what_is_not_understood(place, named):
    with pytest.raises(SystemExit) as ended:
        film(place, *named)
    assert ended.value.code == 2


@pytest.mark.parametrize(
    "output, codec, expected",
    [
        (None, None, ("in_colored.mp4", "h264")),
        (None, "prores", ("in_colored.mov", "prores")),
        (None, "tiff", ("in_colored", "tiff")),
        ("a.mp4", None, ("a.mp4", "h264")),
        ("a.MOV", None, ("a.MOV", "prores")),
        ("a.mkv", None, ("a.mkv", "ffv1")),
        ("a.mxf", None, ("a.mxf", "dnxhr")),
        ("a.mkv", "hevc-10", ("a.mkv", "hevc-10")),
        ("frames", None, ("frames", "png")),
        ("there", None, ("there", "png")),
        ("new/", None, ("new", "png")),
        ("there", "h264", ("there/in_colored.mp4", "h264")),
        ("new/", "exr", ("new", "exr")),
    ],
)
def test_the_codec_is_that_of_the_outputs_name(tmp_path, monkeypatch, output, codec, expected):
    from argparse import Namespace
    from pathlib import Path

    from comfyui_exemplar.cli.film import _place

    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    place, name = _place(Namespace(input=Path("in.mkv"), output=output, codec=codec))
    assert (str(place), name) == expected
