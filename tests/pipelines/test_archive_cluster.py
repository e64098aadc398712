"""The same on a Ray cluster of this machine; skipped where Ray is not installed."""

import functools
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from comfyui_exemplar.pipelines.archive import Run
from comfyui_exemplar.pipelines.archive_cluster import Cluster

from .test_archive import FIXTURES, Place, methods

ray = pytest.importorskip("ray")


@pytest.fixture
def local(monkeypatch):
    """A cluster that is begun by the pool itself, whose processes find the tests' methods."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([FIXTURES, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    yield
    ray.shutdown()


def filled(root, count):
    root.mkdir(exist_ok=True)
    place = Place(root)
    for number in range(count):
        place.picture(f"{number:02}.png", number / count)
    return place


def test_actors_give_the_same_bytes_and_a_dead_one_loses_nothing(local, tmp_path):
    place, other = filled(tmp_path / "cluster", 30), filled(tmp_path / "one", 30)
    journal = place.journal()
    pool = Cluster("local", 2, functools.partial(methods.tinted, 0.1), place.writing(journal))

    def kill():
        time.sleep(1.0)
        os.kill(victim, signal.SIGKILL)

    victim = pool.process_ids[0]
    thread = threading.Thread(target=kill)
    thread.start()
    try:
        Run(journal, pool, place.item).work()
        thread.join()
        rows = {row.path: row for row in journal.sorted_rows()}
        assert victim not in pool.process_ids
    finally:
        pool.close()
        journal.close()
    assert {row.state for row in rows.values()} == {"done"} and {row.tries for row in rows.values()} == {1}
    assert {name: row.output for name, row in other.run().items()} == {name: row.output for name, row in rows.items()}


def test_no_model(local, tmp_path):
    place = filled(tmp_path / "in", 1)
    journal = place.journal()
    try:
        pool = Cluster("local", 1, methods.broken, place.writing(journal))
        with pytest.raises(ValueError, match="A worker cannot begin: there is no model"):
            Run(journal, pool, place.item).work()
        pool.close()
    finally:
        journal.close()


def test_a_cluster_that_does_not_answer(tmp_path):
    """In a process of its own: how long Ray tries is read when it is imported."""
    place = filled(tmp_path / "in", 1)
    arguments = ["archive", str(place.root), "--output", str(tmp_path / "out"), "--address", "127.0.0.1:1"]
    done = subprocess.run(
        [sys.executable, "-m", "comfyui_exemplar", *arguments], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 1 and "No Ray cluster can be reached at 127.0.0.1:1 (" in done.stderr
