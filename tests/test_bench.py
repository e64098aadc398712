"""The benchmark command runs and reports; its numbers are not asserted, because machines differ."""

import subprocess
import sys
from pathlib import Path


def test_bench_runs_on_a_toy():
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--tiny", "--depth", "1", "--repeat", "1"],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    for line in ("whole flow", "peak memory", "kept features", "Outside the UNet and the VAE"):
        assert line in done.stdout
