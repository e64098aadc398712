"""The benchmark command runs and reports; its numbers are not asserted, because machines differ."""

import re
import subprocess
import sys
from pathlib import Path

import pytest


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=300
    )


def report(*arguments):
    done = run(*arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def rows(table):
    """The cells of a report's lines, without the heads."""
    lines = [line.strip("|") for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.split("|")] for line in lines][2:]


@pytest.mark.parametrize("bench", ["bench", "bench.vct_control", "bench.ddcolor"])
def test_a_device_that_is_not_there(bench):
    """One line that says what it would need, and code 2, before any work."""
    done = run(bench, "--tiny", "--device", "hpu", "--dtype", "bfloat16")
    assert done.returncode == 2 and not done.stdout
    (line,) = [line for line in done.stderr.splitlines() if "--device" in line]
    assert line.startswith("--device hpu --dtype bfloat16 can't be used here (") and "torch finds cpu" in line
    assert re.search(r"by shapes it needs \d+ MiB for the weights and \d+ MiB beside them", line)


def test_half_precision_and_a_heading():
    found = report("bench.vct_control", "--tiny", "--steps", "1", "--dtype", "bfloat16")
    assert "bf16, " in found and "CPU thread(s), torch " in found


class TestMemory:
    """By shapes, so these are numbers: of a toy at 64 x 64, whose features are counted by hand too."""

    def test_a_colorization(self):
        arguments = ("bench.memory", "--model", "toy", "--size", "256", "--depth", "2")
        device, main = (
            [int(cell.split()[0]) if "x" not in cell else float(cell.split("x")[0]) for cell in cells[1:]]
            for kept in ("with the model", "cpu")
            for cells in rows(report(*arguments, "--keep-on", kept))
        )
        names = ("weights", "plain", "climb", "injected", "ratio", "kept", "there", "edit")
        device, main = dict(zip(names, device, strict=True)), dict(zip(names, main, strict=True))
        assert (device["weights"], device["plain"]) == (main["weights"], main["plain"])
        assert device["kept"] == main["kept"] == device["there"] > main["there"] == 0
        # a level of the two is on the device at a time
        assert main["climb"] < device["climb"] and main["injected"] <= device["injected"]
        assert main["edit"] < device["edit"]

    def test_the_formula(self):
        """What is kept is what levels, layers, tokens and channels say."""
        found = report("bench.memory", "--model", "toy", "--size", "64")
        assert "formula" not in found.splitlines()[-1]

    def test_gradients(self):
        ((_, copy, step, spared),) = rows(report("bench.memory", "--model", "toy", "--size", "64", "--gradients"))
        assert int(copy) > 0 and int(spared) < int(step)


def test_bench_runs_on_a_toy():
    found = report("bench", "--tiny", "--depth", "1", "--repeat", "1")
    for line in ("whole flow", "peak memory", "kept features", "Outside the UNet and the VAE"):
        assert line in found


def test_bench_of_image_tokens_runs_on_a_toy():
    found = report("bench.deadiff", "--tiny", "--size", "64", "--repeat", "1")
    for line in ("plain", "tokens, projected once", "tokens, projected in every step", "processor"):
        assert line in found


def test_bench_of_automatic_color_runs_on_a_toy():
    found = report("bench.ddcolor", "--tiny", "--batch", "2", "--size", "64", "--repeat", "1")
    for line in ("pictures a second", "bare forward passes", "processor seconds"):
        assert line in found


def test_bench_of_words_runs_on_a_toy():
    found = report("bench.lcad", "--tiny", "--size", "32", "--steps", "1", "--repeat", "1")
    assert "At 50 steps: 1 gray encode, 50 UNet calls of 2 rows, 1 decode." in found
    assert "one step, both texts in one call" in found


def test_bench_of_translation_runs_on_a_toy():
    """Passes are counts, not times, so these are the same everywhere: of both phases with their formulas."""
    found = report("bench.vct", "--tiny", "--stop-below", "0")
    cells = {}
    for line in found.splitlines():
        if line.startswith("| ") and ":" in line:
            name, *values = (cell.strip() for cell in line.strip("|").split("|"))
            cells[name] = [int(value) for value in values[:4]]
    steps, iterations, copies = 2, 2, 4  # of the toy: naive, released, ours, economical
    assert cells["concept: passes"] == [2 * copies] * 4
    assert cells["concept: calls"] == [2 * copies, 2 * copies, 2, 2]
    a_step = [4 * iterations + 2, 2 * iterations + 3, 2 * iterations + 2]
    assert cells["pivots: passes"][:3] == [steps * passes for passes in a_step]
    assert cells["fusion: passes"] == [4 * steps, 4 * steps, 3 * steps, 3 * steps]
    assert "ours against naive, largest difference" in found and "peak memory" in found


def test_bench_of_fusion_runs_on_a_toy():
    found = report("bench.vct_control", "--tiny", "--steps", "1")
    assert "| UNet rows | 4 | 3 | 1.33x |" in found
    # both walked the same way
    assert float(found.split()[-1]) < 1e-3


def test_bench_of_instances_runs_on_a_toy():
    found = report("bench.lcad_instances", "--tiny", "--repeat", "1")
    for line in ("naive, published schedule | 200", "ours, published schedule | 100", "one pass (default) | 50"):
        assert line in found


def test_bench_of_transferred_colors_runs_on_small_pictures():
    """Each size in a process of its own; ours is nearer than the plain merge of a copy that drifted."""
    found = rows(report("bench.transfer", "--tiny", "--threads", "1"))
    assert [cells[0] for cells in found] == ["0.05", "0.10"]
    for cells in found:
        plain, ours = (float(part) for part in cells[-1].split(", "))
        assert ours < plain


@pytest.mark.parametrize("encoder", [(), ("--small-vae",)])
def test_bench_of_color_memories_runs_on_a_toy(encoder):
    """Rows and calls are counts: of the first picture, then of a further one."""
    found = report("bench.color_memory", "--tiny", *encoder)
    assert "| UNet calls | 30 | 1 | 30.0x |" in found
    assert "| the first picture: UNet rows | 55 | 2 | 27.5x |" in found
    assert "| a further picture: UNet rows | 45 | 1 | 45.0x |" in found
    assert found.count("| pictures encoded, decoded |") == 2 and "| 1, 0 | |" in found
    assert "A memory of 100 references" in found and "Peak by shapes" in found


def test_bench_of_statistics_runs_on_small_pictures():
    """Those of other packages stand there where they are installed."""
    found = report("bench.match", "--tiny")
    for line in ("| covariance, mkl_lab |", "| sliced transport |", "| ours, covariance, lightness kept | 0.00 |"):
        assert line in found


def test_films():
    pytest.importorskip("av")
    pytest.importorskip("cv2")
    found = rows(report("bench.film", "--tiny"))
    assert [cells[0] for cells in found if cells[0].isdigit()] == ["24", "48"]
    assert [cells[0] for cells in found if cells[0].startswith("film")] == [
        "film, a key frame a shot",
        "film, a reference",
    ]


def test_archives():
    found = report("bench.archive", "--pictures", "40", "--only", "journal", "--only", "added")
    assert re.search(r"64 simulated workers, .*: \d+ files a second", found)
    assert "25 pictures added to 4: the second run did 25" in found
