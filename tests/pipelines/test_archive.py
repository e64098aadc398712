"""Workers and who gives them files: errors, deaths, copies, what was finished unheard."""

import errno
import functools
import importlib
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch

from comfyui_exemplar.files.archive.finding import digest_of
from comfyui_exemplar.files.archive.folders import FolderSettings
from comfyui_exemplar.files.archive.journal import Found, Journal
from comfyui_exemplar.files.pictures import save_picture
from comfyui_exemplar.pipelines import archive
from comfyui_exemplar.pipelines.archive import DIED, Item, Run, Worker, Writing
from comfyui_exemplar.pipelines.archive_pools import InProcess, Processes, wait_for_workers

from ..test_architecture import ROOT

FIXTURES = str(ROOT / "tests" / "fixtures")
if FIXTURES not in sys.path:  # other processes import the methods by the same name
    sys.path.append(FIXTURES)
methods = importlib.import_module("archive_methods")

POSIX = pytest.mark.skipif(os.name == "nt", reason="SIGKILL")


class Place:
    """Pictures, results and a journal."""

    def __init__(self, root):
        self.root, self.output = root / "in", root / "out"
        self.root.mkdir(exist_ok=True)
        self.output.mkdir(exist_ok=True)

    def picture(self, name, value=0.5, size=(6, 5)):
        save_picture(torch.full((1, *size, 3), value), self.root / name)

    def journal(self):
        journal = Journal(self.output, {"method": "tinted"})
        journal.open()
        paths = sorted(self.root.iterdir())
        journal.look(
            Found(each.name, f"{each.stem}.png", f"{each.stem}.png", 1, 1, digest_of(each), "") for each in paths
        )
        journal.settle()
        return journal

    def item(self, row):
        source, result = self.root / row.path, self.output / row.place
        return Item(row.number, str(source), str(result), FolderSettings(), row.content)

    def writing(self, journal):
        return Writing(str(journal.folder))

    def run(self, pool_of=None, build=methods.tinted):
        """All rows by name after a run."""
        journal = self.journal()
        pool = (pool_of or InProcess)(build, self.writing(journal))
        try:
            Run(journal, pool, self.item).work()
            return {row.path: row for row in journal.sorted_rows()}
        finally:
            pool.close()
            journal.close()


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def processes(size):
    return lambda build, writing: Processes(size, build, writing)


def test_all_are_done_with_their_confidence_and_thumbnail(place):
    for number in range(10):
        place.picture(f"{number}.png", number / 10)
    rows = place.run()
    assert {row.state for row in rows.values()} == {"done"}
    assert rows["3.png"].confidence == pytest.approx(0.3, abs=0.01)
    assert all(row.output == digest_of(place.output / row.place) for row in rows.values())
    assert all(row.thumbnail.startswith(b"\xff\xd8") for row in rows.values())


def test_a_files_error_is_its_own_and_it_is_tried_twice(place):
    for number in range(4):
        place.picture(f"{number}.png", number / 10)
    (place.root / "1.png").write_bytes((place.root / "1.png").read_bytes()[:60])
    (place.root / "x.jpg").write_bytes(b"none")
    rows = place.run()
    assert {name for name, row in rows.items() if row.state == "failed"} == {"1.png", "x.jpg"}
    assert rows["1.png"].tries == 2 and "is not a picture that can be read" in rows["1.png"].error
    assert rows["0.png"].tries == 1
    again = place.run()
    assert again["1.png"].tries == 2 and again["0.png"].tries == 1


def test_batches_are_halved_when_memory_runs_out_and_give_the_same(place, tmp_path):
    for number in range(8):
        place.picture(f"{number}.png", number / 10)
    method = methods.Tinted(at_once=8, most=3)
    rows = place.run(build=lambda: method)
    assert method.calls == [8, 4, 2, 2, 2, 2] and {row.state for row in rows.values()} == {"done"}
    other = Place(tmp_path / "other") if (tmp_path / "other").mkdir() is None else None
    for number in range(8):
        other.picture(f"{number}.png", number / 10)
    assert {name: row.output for name, row in other.run().items()} == {name: row.output for name, row in rows.items()}


def test_a_picture_that_is_too_much_alone_fails_alone(place):
    place.picture("a.png")
    rows = place.run(build=lambda: methods.Tinted(most=0))
    assert "memory ran out, even with this picture alone" in rows["a.png"].error


def test_one_to_blame_does_not_fail_the_batch(place):
    class Choosy(methods.Tinted):
        def __call__(self, pictures, folder):
            if float(pictures.max()) > 0.95:
                raise RuntimeError("too light")
            return super().__call__(pictures, folder)

    for number in range(4):
        place.picture(f"{number}.png", number / 3)
    rows = place.run(build=lambda: Choosy(at_once=4))
    assert [name for name, row in rows.items() if row.state == "failed"] == ["3.png"]
    assert "unexpected RuntimeError: too light" in rows["3.png"].error


def test_copies_get_the_result_of_the_first(place):
    for name in ("a.png", "b.png", "c.jpg"):
        place.picture(name)
    (place.root / "d.png").write_bytes(b"none")
    (place.root / "e.png").write_bytes(b"none")
    rows = place.run()
    assert rows["b.png"].output == rows["a.png"].output and rows["b.png"].first == rows["a.png"].number
    assert (place.output / "b.png").read_bytes() == (place.output / "a.png").read_bytes()
    assert "as d.png, which it is a copy of: " in rows["e.png"].error


def test_a_full_disk_ends_the_run_and_fails_no_file(place, monkeypatch):
    for number in range(6):
        place.picture(f"{number}.png", number / 10)
    left = [2]

    def full(*args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return save_picture(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(archive, "save_picture", full)
        with pytest.raises(OSError, match="the disk is full"):
            place.run()
    rows = place.run()
    assert {row.state for row in rows.values()} == {"done"} and {row.tries for row in rows.values()} == {1}


def test_what_was_finished_unheard_is_not_done_again(place):
    for number in range(5):
        place.picture(f"{number}.png", number / 10)
    journal = place.journal()
    worker = Worker(methods.tinted(), place.writing(journal))
    heard = worker.work([place.item(row) for row in journal.rows("waiting")][:3])
    journal.close()  # and the driver is gone
    (place.output / "2.png").unlink()  # killed between receipt and name
    method = methods.Tinted()
    rows = place.run(build=lambda: method)
    assert len(method.calls) == 3 and {row.state for row in rows.values()} == {"done"}
    assert rows["1.png"].output == heard[1].output and rows["1.png"].thumbnail == heard[1].picture


def test_a_result_of_other_content_is_not_taken_for_this_one(place):
    place.picture("a.png", 0.2)
    journal = place.journal()
    Worker(methods.tinted(), place.writing(journal)).work([place.item(row) for row in journal.rows("waiting")])
    journal.close()
    place.picture("a.png", 0.7)
    assert place.run()["a.png"].confidence == pytest.approx(0.7, abs=0.01)


def test_a_file_of_somebody_else_is_not_replaced(place):
    place.picture("a.png")
    (place.output / "a.png").write_bytes(b"mine")
    with pytest.raises(ValueError, match="is not of this archive"):
        place.run()
    assert (place.output / "a.png").read_bytes() == b"mine"


def test_two_processes_give_the_same_bytes(place, tmp_path):
    for number in range(20):
        place.picture(f"{number}.png", number / 20)
    rows = place.run(processes(2))
    assert {row.state for row in rows.values()} == {"done"}
    one = tmp_path / "one"
    one.mkdir()
    other = Place(one)
    for number in range(20):
        other.picture(f"{number}.png", number / 20)
    assert {name: row.output for name, row in other.run().items()} == {name: row.output for name, row in rows.items()}


@POSIX
def test_a_worker_that_dies_loses_nothing(place, tmp_path):
    """The black picture kills its worker once: the rest is done once, and the picture itself in the end."""
    for number in range(12):
        place.picture(f"{number:02}.png", number / 12)
    left = tmp_path / "left"
    left.write_text("1")
    rows = place.run(processes(1), functools.partial(methods.killing, str(left)))
    assert {row.state for row in rows.values()} == {"done"} and {row.tries for row in rows.values()} == {1}


@POSIX
def test_a_file_that_kills_is_told_and_left(place, tmp_path):
    for number in range(4):
        place.picture(f"{number}.png", number / 4)
    rows = place.run(processes(1), functools.partial(methods.killing, str(tmp_path / "nothing")))
    assert rows["0.png"].error == DIED and [row.state for row in rows.values()].count("done") == 3


def test_a_worker_without_model(place):
    place.picture("a.png")
    with pytest.raises(ValueError, match="A worker cannot begin: there is no model"):
        place.run(processes(1), methods.broken)


@POSIX
def test_the_next_driver_waits_for_workers_of_one_that_was_killed(place):
    for number in range(6):
        place.picture(f"{number}.png", number / 6)
    code = textwrap.dedent(
        f"""
        import functools, sys
        from pathlib import Path
        from tests.pipelines.test_archive import Place, methods, processes
        if __name__ == "__main__":
            Place(Path({str(place.root.parent)!r})).run(processes(1), functools.partial(methods.tinted, 1.0))
        """
    )
    script = place.root.parent / "driver.py"
    script.write_text(code)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    driver = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": path}, cwd=ROOT)
    until(lambda: any(place.output.glob("*.png")))
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    journal = place.output / ".exemplar-archive"
    with pytest.raises(ValueError, match="A worker of a run that ended still writes"):
        wait_for_workers(journal, 0.0)
    wait_for_workers(journal, 60.0)
    before = {each.name: each.stat().st_mtime_ns for each in place.output.glob("*.png")}
    rows = place.run()
    assert {row.state for row in rows.values()} == {"done"} and 0 < len(before) < 6
    assert all((place.output / name).stat().st_mtime_ns == time_ for name, time_ in before.items())


def until(said, seconds=90):
    end = time.monotonic() + seconds
    while not said():
        assert time.monotonic() < end
        time.sleep(0.02)
