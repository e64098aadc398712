"""Tests that need ComfyUI's modules but no server, run by ComfyUI's own Python."""

import os
import subprocess
from pathlib import Path

import pytest

from .server import ROOT, comfyui_python, needs_comfyui

needs_comfyui()


@pytest.mark.parametrize(
    "tests",
    [
        "tests/comfy/inside",
        "tests/parity/test_exemplar.py",
        "tests/parity/test_ddcolor_pipeline.py",
        "tests/parity/test_deadiff_unet.py",
        "tests/parity/test_lcad_sampling.py",
        "tests/parity/test_vct_concept.py",
        "tests/parity/test_vct_pivot.py",
        "tests/parity/test_lcad_instances.py",
        "tests/parity/test_vct_control.py",
    ],
)
def test_inside_comfyui(checkout, tests):
    site_packages = Path(pytest.__file__).resolve().parents[1]
    run = subprocess.run(
        [
            comfyui_python(),
            str(ROOT / "tests" / "comfy" / "run_inside.py"),
            str(site_packages),
            str(ROOT),
            str(ROOT / tests),
            "-q",
        ],
        cwd=checkout,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert run.returncode == 0, run.stdout[-6000:]
