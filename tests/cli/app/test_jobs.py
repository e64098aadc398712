"""One job at a time, stopped within a step, told in a sentence, nothing left behind."""

import logging
import threading
import time

import pytest

from comfyui_exemplar.cli.app.jobs import Refused, Stopped, sentence


def test_a_job_has_a_folder_that_goes_with_it(jobs):
    with jobs.job("a") as job:
        (job.folder / "x.png").write_bytes(b"x")
        assert job.folder.parent == jobs.folder
    assert list(jobs.folder.iterdir()) == []


def test_steps_are_told_and_never_more_than_there_are(jobs):
    told = []
    with jobs.job("a", on_step=lambda *step: told.append(step)) as job:
        job.begin(2, "work")
        for _ in range(3):
            job.step()
        job.expect(4)
        job.step()
    assert told == [(0, 2, "work"), (1, 2, "work"), (2, 2, "work"), (2, 2, "work"), (4, 7, "work")]


def test_what_is_stopped_ends_with_its_next_step_and_leaves_nothing(jobs):
    steps = 0
    with pytest.raises(Stopped), jobs.job("a") as job:
        job.begin(10, "work")
        for _ in range(10):
            steps += 1
            assert jobs.stop("b") is False, "another page's"
            if steps == 3:
                assert jobs.stop("a") is True
            job.step()
    assert steps == 3 and list(jobs.folder.iterdir()) == []
    assert jobs.stop("a") is False, "nothing runs"
    with jobs.job("a") as job:
        job.begin(1, "the next one runs")


def test_jobs_come_one_after_the_other_and_one_that_waits_can_be_stopped(jobs):
    began, ended = threading.Event(), []

    def second():
        began.set()
        try:
            with jobs.job("b"):
                ended.append("ran")
        except Stopped:
            ended.append("stopped")

    with jobs.job("a"):
        waiting = threading.Thread(target=second)
        waiting.start()
        began.wait(5)
        while waiting.is_alive() and not jobs.stop("b"):
            time.sleep(0.01)
        assert ended == []
    waiting.join(5)
    assert ended == ["stopped"] and list(jobs.folder.iterdir()) == []


def test_errors_are_one_sentence_without_the_servers_folders(jobs, tmp_path):
    file = tmp_path / "hash" / "a.png"
    with pytest.raises(Refused, match=r"^a\.png is\nno picture\.$".replace(r"\n", " ")), jobs.job("a", [file]):
        raise ValueError(f"{file} is\nno picture.")
    assert "lower the resolution." in sentence(MemoryError()) and "--" not in sentence(MemoryError())
    assert "unexpected KeyError" in sentence(KeyError("x")) and "\n" not in sentence(KeyError("x"))


def test_an_unexpected_error_is_shown_in_the_terminal_if_that_was_asked_for(jobs, capsys):
    for traceback in (False, True):
        jobs.traceback = traceback
        with pytest.raises(Refused), jobs.job("a"):
            raise KeyError("x")
        assert ("Traceback" in capsys.readouterr().err) is traceback


def test_warnings_of_the_pack_are_told_once_and_to_their_job_only(jobs):
    log = logging.getLogger("comfyui_exemplar.files.pictures")
    with jobs.job("a") as job:
        log.warning("a page was left")
        log.warning("a page was left")
    log.warning("afterwards")
    assert job.notes == ["a page was left"]
