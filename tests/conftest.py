"""What holds for all tests: which are slow, and where the folders beside the package are found."""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

#: Files that take more than a few seconds on two cores. ``make quick`` leaves them out; single slow tests elsewhere are
#: marked where they stand (``@pytest.mark.slow``).
SLOW = (
    "cli/test_colorize.py",
    "cli/test_colorize_memory.py",
    "cli/test_describe.py",
    "cli/test_reproduce.py",
    "cli/test_translate.py",
    "comfy/",
    "files/films/",
    "hosts/test_checkpoint.py",
    "hosts/test_checkpoint_errors.py",
    "hosts/test_diffusers.py",
    "hosts/test_on_a_gpu.py",
    "hosts/test_wrong_models.py",
    "parity/test_ddcolor.py",
    "parity/test_ddcolor_pipeline.py",
    "parity/test_deadiff_unet.py",
    "parity/test_exemplar.py",
    "parity/test_lcad_instances.py",
    "parity/test_lcad_sampling.py",
    "parity/test_measure.py",
    "parity/test_vct_concept.py",
    "parity/test_vct_control.py",
    "parity/test_vct_pivot.py",
    "pipelines/test_exemplar_settings.py",
    "pipelines/test_suite.py",
    "pipelines/test_vct.py",
    "pipelines/test_words.py",
    "test_bench.py",
    "training/",
)

# `bench`, `training` and `texts` are folders beside the package, no part of it.
if str(HERE.parent) not in sys.path:
    sys.path.append(str(HERE.parent))  # last, so that no name of ours hides another


def pytest_collection_modifyitems(items):
    for item in items:
        name = item.path.relative_to(HERE).as_posix() if item.path.is_relative_to(HERE) else ""
        if name.startswith(SLOW):
            item.add_marker(pytest.mark.slow)
