import os
import sqlite3
import subprocess
import sys

import pytest

from comfyui_exemplar.files.archive.journal import FOLDER, Found, Journal
from comfyui_exemplar.files.archive.receipts import Outcome, Receipts, read_receipts, remove_receipts

MADE = {"method": "auto", "model": "1 bytes, abc"}


def found(path, content="c", folder="", place=None):
    place = place or f"{path.rpartition('.')[0]}.png"
    return Found(path, place, place, 1, 2, content or "", folder)


@pytest.fixture
def opened(tmp_path):
    journals = []

    def begin(made=MADE):
        for each in journals:
            each.close()
        journals.append(Journal(tmp_path, made))
        journals[-1].open()
        return journals[-1]

    yield begin
    for each in journals:
        each.close()


def states(journal):
    return {row.path: row.state for row in journal.sorted_rows()}


def test_what_is_done_stays_done(opened):
    journal = opened()
    journal.look([found("a.png", "1"), found("b.png", "2")])
    journal.settle()
    (a, b) = journal.rows("waiting")
    journal.record([Outcome(a.number, "digest", 0.5, 1.0)])
    assert states(journal) == {"b.png": "waiting", "a.png": "done"}
    journal = opened()
    journal.look([found("a.png", "1"), found("b.png", "2"), found("c.png", "3")])
    journal.settle()
    assert [row.path for row in journal.rows("waiting")] == ["b.png", "c.png"] and b.number
    assert journal.counts() == {"done": 1, "waiting": 2}


def test_a_changed_file_or_folder_waits_again_and_one_that_is_gone_is_not_asked_for(opened):
    journal = opened()
    journal.look([found(name, name) for name in ("a.png", "b.png", "c.png", "d.png")])
    journal.record([Outcome(row.number, "digest") for row in journal.rows("waiting")])
    journal = opened()
    journal.look([found("a.png", "a.png"), found("b.png", "new"), found("c.png", "c.png", "other")])
    journal.settle()
    assert states(journal) == {"a.png": "done", "b.png": "waiting", "c.png": "waiting"}


def test_one_content_is_done_once(opened):
    journal = opened()
    journal.look([found("a.png"), found("b.png"), found("c.png", folder="other"), found("d.png", content="")])
    journal.look([found("e.png", content="")])
    journal.settle()
    assert states(journal) == {
        **{"a.png": "waiting", "b.png": "same", "c.png": "waiting", "d.png": "waiting", "e.png": "waiting"}
    }
    (row,) = journal.rows("same")
    assert journal.row(row.first).path == "a.png" and journal.copies() == 1


def test_a_copy_of_what_is_done_takes_its_result(opened):
    journal = opened()
    journal.look([found("b.png")])
    journal.record([Outcome(1, "digest")])
    journal = opened()
    journal.look([found("a.png"), found("b.png")])
    journal.settle()
    assert states(journal) == {"a.png": "same", "b.png": "done"}


def test_failed_files_are_left_until_they_are_asked_for(opened):
    journal = opened()
    journal.look([found("a.png")])
    for _ in range(2):
        journal.record([Outcome(1, error="cut off")])
    assert [row.error for row in journal.rows("failed", tries=2)] == ["cut off"]
    journal.settle()
    assert not list(journal.rows("waiting"))
    journal.settle(retry=True)
    assert [row.tries for row in journal.rows("waiting")] == [0]


def test_collisions_are_named(opened):
    journal = opened()
    journal.look([found("a.tif", "1"), found("a.jpg", "2"), found("b.png", "3")])
    assert journal.collisions() == (1, [["a.tif", "a.jpg"]])


@pytest.mark.parametrize("made, told", [({"method": "memory"}, "method (auto, now memory), model"), ({}, "method")])
def test_other_work_is_named(opened, tmp_path, made, told):
    opened().close()
    with pytest.raises(ValueError, match="holds results of other work") as error:
        Journal(tmp_path, made).check()
    assert told in str(error.value)


@pytest.mark.parametrize("content", [b"no database at all, but long enough" * 9, b""])
def test_what_is_no_journal(tmp_path, content):
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "journal.sqlite").write_bytes(content)
    if content:
        with pytest.raises(ValueError, match="is no journal of an archive"):
            Journal(tmp_path, MADE).check()
    else:  # killed before its first transaction
        Journal(tmp_path, MADE).open()


def test_a_database_of_somebody_else(tmp_path):
    (tmp_path / FOLDER).mkdir()
    base = sqlite3.connect(tmp_path / FOLDER / "journal.sqlite")
    base.execute("CREATE TABLE said (name, value)")
    base.close()
    with pytest.raises(ValueError, match="of another version of this program, or of another one"):
        Journal(tmp_path, MADE).check()


@pytest.mark.skipif(os.name == "nt", reason="names are told apart in another way")
def test_two_runs_at_once(opened, tmp_path):
    opened()
    code = (
        "import sys; from pathlib import Path; from comfyui_exemplar.files.archive.journal import Journal\n"
        f"Journal(Path({str(tmp_path)!r}), {MADE!r}).open()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "is being written by another run" in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="names of bytes")
def test_names_that_are_no_text(opened):
    name = os.fsdecode(b"\xff\xfe.png")
    journal = opened()
    journal.look([found(name)])
    assert [row.path for row in journal.rows("waiting")] == [name]


def test_a_full_disk_is_told(opened):
    journal = opened()
    journal._base.execute("PRAGMA max_page_count = 12")
    with pytest.raises(OSError, match="full; make room"):
        journal.look(found(f"{number}.png", "x" * 500) for number in range(1000))
    assert journal.counts() == {}


def test_pages_do_not_lose_a_row_when_rows_change(opened):
    journal = opened()
    journal.look(found(f"{number:05}.png", str(number)) for number in range(1500))
    seen = []
    for row in journal.rows("waiting"):
        seen.append(row.number)
        journal.record([Outcome(row.number, "d")])
    assert len(set(seen)) == len(seen) == 1500


def test_receipts(tmp_path):
    receipts = Receipts(tmp_path)
    receipts.add(Outcome(1, "a", 0.5, 1.0, work="w"))
    receipts.add(Outcome(2, "b"))
    receipts.close()
    other = Receipts(tmp_path)
    other._file.write('{"number": 3, "out')  # killed within a line
    other.close()
    (tmp_path / "receipts-x.jsonl").write_text('[]\n{"number": "1"}\n{"number": 1, "more": 2}\nnull\n')
    assert list(read_receipts(tmp_path, {1, 3})) == [Outcome(1, "a", 0.5, 1.0, work="w")]
    remove_receipts(tmp_path)
    assert not list(tmp_path.iterdir())
