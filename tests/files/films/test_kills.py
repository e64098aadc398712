"""Runs that are killed at random moments and begun again: the same bytes as those of a run that was left alone."""

import errno
import os
import random
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from comfyui_exemplar.files.films import FilmOutput, open_film
from comfyui_exemplar.files.films.journal import take_lock

from ...fixtures import killed_film
from ...fixtures.film_files import picture, write_film

pytest.importorskip("av")


def begun(*arguments):
    return subprocess.Popen(
        [sys.executable, killed_film.__file__, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def shots(parts):
    """How many are journaled."""
    journal = parts / "journal.jsonl"
    return journal.read_bytes().count(b'"scores"') if journal.is_file() else 0


def content(path):
    if path.is_dir():
        return {each.name: each.read_bytes() for each in sorted(path.iterdir())}
    return path.read_bytes()


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "ffv1"), ("a.mp4", "h264"), ("a", "png")])
def test_killed_three_times(tmp_path, name, codec):
    source = write_film(tmp_path / "source.mkv", [picture(time) for time in range(24)], codec="ffv1", sound="pcm")
    (tmp_path / "alone").mkdir()
    with begun(source, tmp_path / "alone" / name, codec, 0) as process:
        assert process.wait(120) == 0 or process.stdout.read() is None
    moments, resumed = random.Random(codec), []
    for kill in range(3):
        with begun(source, tmp_path / name, codec, 0.1) as process:
            resumed.append(int(process.stdout.readline().split()[1]))
            while shots(tmp_path / f"{name}.parts") <= kill:
                time.sleep(0.01)
            time.sleep(moments.uniform(0, 0.3))
            assert process.poll() is None, kill
            process.kill()
            assert process.wait(60) == -9
    assert not (tmp_path / name).exists()
    with begun(source, tmp_path / name, codec, 0) as process:
        resumed.append(int(process.stdout.readline().split()[1]))
        assert process.wait(120) == 0
    assert resumed == sorted(resumed) and resumed[-1] > 2, "it went on"
    assert content(tmp_path / name) == content(tmp_path / "alone" / name)
    assert {path.name for path in tmp_path.iterdir()} == {"source.mkv", "alone", name}


def test_two_runs_at_once_are_told_apart(tmp_path):
    """The second would throw away what the first writes; a run that was killed is in nobody's way."""
    pytest.importorskip("fcntl")
    source = write_film(tmp_path / "source.mkv", [picture(time) for time in range(24)], codec="ffv1")
    film = open_film(source)
    output = FilmOutput(tmp_path / "a.mkv", "ffv1", film, {"input": "a"})
    with begun(source, tmp_path / "a.mkv", "ffv1", 5) as process:
        process.stdout.readline()
        for refused in (output.check, lambda: output.begin([(0, 24)])):
            with pytest.raises(ValueError, match="is being written by another run; wait until that has ended"):
                refused()
        process.kill()
    output.check()


def on_windows(monkeypatch, taken):
    """Locks as msvcrt has them: of the byte at the file's place, refused also within one process."""

    def locking(_number, mode, count):
        assert (mode, count) == (2, 1)
        if taken:
            raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(LK_NBLCK=2, locking=locking))


def test_two_runs_at_once_are_told_apart_on_windows(tmp_path, monkeypatch):
    place = tmp_path / ".writing-lock"
    taken = []
    on_windows(monkeypatch, taken)
    with place.open("a+b") as mine:
        assert take_lock(mine)
        taken.append(1)
        with place.open("a+b") as again:
            assert take_lock(again), "a run that this process stopped is in nobody's way"
        place.write_bytes(b"%d0" % os.getpid())
        with place.open("a+b") as other:
            assert not take_lock(other)


def test_a_drive_without_locks_is_written_to(tmp_path, monkeypatch):
    def without(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    for name, module in (("fcntl", SimpleNamespace(LOCK_EX=2, LOCK_NB=4, lockf=without)), ("fcntl", None)):
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(LK_NBLCK=2, locking=without))
        with (tmp_path / "lock").open("a+b") as file:
            assert take_lock(file)
