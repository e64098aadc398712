"""Writers that are killed, or run out of room, at many moments: the older file or the new one, never another."""

import json
import os
import random
import subprocess
import sys
from contextlib import suppress

import pytest
from PIL import Image
from safetensors import numpy as saver
from safetensors import safe_open

from ..fixtures import killed
from ..fixtures.deadiff import small_weights
from ..fixtures.pictures import shapes

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the tests part processes")

#: What is written, by the name of its file.
WRITERS = {
    "a.png": "auto",
    "deep.png": "auto --bits 16",
    "a.tif": "auto",
    "deep.tiff": "auto --bits 16",
    "a.jpg": "auto",
    "a.webp": "auto",
    "a.bmp": "auto",
    "a.exr": "auto --bits 16",
    "concept.safetensors": "concept",
    "adapter.safetensors": "adapter",
}
KILLS = 4


@pytest.fixture(scope="module")
def writers():
    """A process whose children are killed: ``writers(what=, path=, ...)`` -> (codes, what was said)."""
    with subprocess.Popen(
        [sys.executable, killed.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:

        def ask(**order):
            process.stdin.write(json.dumps(order, default=str) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield ask
        process.stdin.close()


def fill(place):
    """What is read."""
    source = place / "source"
    source.mkdir()
    shapes(killed.SIDE, killed.SIDE, "L").save(source / "gray.png")
    for number in range(2):
        weights = {name: tensor.numpy() + number for name, tensor in small_weights().items()}
        saver.save_file(weights, source / f"{number}.safetensors")


def content(path):
    """What a file holds; weights whatever the order of their header."""
    if path.suffix != ".safetensors":
        return path.read_bytes()
    with safe_open(path, "np") as file:
        return file.metadata(), {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118


@pytest.fixture(scope="module")
def folder(writers, tmp_path_factory):
    """A folder with the second version of all files, and both contents of each."""
    place, versions = tmp_path_factory.mktemp("kills"), {}
    fill(place)
    for name, what in WRITERS.items():
        versions[name] = []
        for number in range(2):
            assert writers(what=what, path=place / name, version=number)[0] == [0]
            versions[name].append(content(place / name))
        assert versions[name][0] != versions[name][1]
    return place, versions


def leftovers(place):
    return [path for path in place.iterdir() if path.name.startswith(".")]


def test_kills(writers, folder):
    """At least 40 in all, at moments of which many lie within a writing."""
    place, versions = folder
    names, moments, hits = {path.name for path in place.iterdir()}, random.Random(0), 0
    for name, what in WRITERS.items():
        for _ in range(KILLS):
            (status,), _ = writers(what=what, path=place / name, after=moments.uniform(0, 0.05))
            assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == 9, status
            left = leftovers(place)
            assert len(left) <= 1  # those before were cleaned on the way
            assert {path.name for path in place.iterdir()} - {path.name for path in left} == names
            assert content(place / name) in versions[name]
            hits += len(left)
        assert writers(what=what, path=place / name, version=1)[0] == [0]
        assert not leftovers(place) and content(place / name) == versions[name][1]
    assert len(WRITERS) * KILLS >= 40 and hits >= 10, hits


@pytest.mark.parametrize("name", WRITERS)
def test_no_room(writers, folder, name):
    """The largest file that is allowed, at several places of the writing."""
    place, versions = folder
    size = (place / name).stat().st_size
    limits = [1, size // 3, size - 10]
    codes, texts = writers(what=WRITERS[name], path=place / name, version=0, limits=limits)
    assert codes == [1] * len(limits), texts
    for said in texts:
        lines = [line for line in said.splitlines() if "%|" not in line and line.strip()]
        assert len(lines) == 1 and name in lines[0] and "disk is full" in lines[0] and "Traceback" not in said, said
    assert content(place / name) == versions[name][1] and not leftovers(place)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 8 MB, where this may be made."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be made here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk(writers, small_disk):
    """One that has room for the older file, and for a part of the new one."""
    fill(small_disk)
    assert writers(what="auto", path=small_disk / "a.png", version=1)[0] == [0]
    older = (small_disk / "a.png").read_bytes()
    with suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    codes, (said,) = writers(what="auto", path=small_disk / "a.png", version=0, limits=[1 << 30])
    assert codes == [1] and "Traceback" not in said and "disk is full" in said, said
    assert (small_disk / "a.png").read_bytes() == older and not leftovers(small_disk)


def test_two_writers_of_one_folder_lose_no_picture(writers, tmp_path):
    """They pick the same numbers again and again."""
    codes, _ = writers(what="photographs", path=tmp_path, pictures=40)
    assert codes == [40, 40]
    light = [Image.open(path).getpixel((0, 0))[0] for path in tmp_path.iterdir()]
    assert sorted(light) == [0] * 40 + [255] * 40
