"""The benchmark command runs and reports; its numbers are not asserted, because machines differ."""

import subprocess
import sys
from pathlib import Path


def report(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


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
