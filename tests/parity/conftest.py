"""Recorded numbers of the official programs, and hosts that run on their weights.

``EXEMPLAR_PARITY_DIR`` names the folder of sets (default: ``data`` beside this file). Sets with other seeds and sizes
go through the same tests, so every size, parameter and file name comes from a set's manifest.
"""

import json
import os
from functools import cached_property
from pathlib import Path

import pytest
from safetensors.torch import load_file

from .ddcolor_set import DDColorSet
from .deadiff_set import DEADiffSet
from .lcad_set import LCADSet
from .measure_set import MeasureSet
from .vct_set import VCTSet


class ParitySet:
    """One system's folder: its manifest, and its files by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = {}

    @cached_property
    def manifest(self) -> dict:
        return json.loads((self.folder / "manifest.json").read_text("utf-8"))

    def file(self, name: str) -> dict:
        if name not in self._files:
            listed = [file for file in self.manifest["files"] if Path(file).stem == name]
            assert len(listed) == 1, f"the manifest lists {listed} for {name}"
            self._files[name] = load_file(self.folder / listed[0])
        return self._files[name]

    def tolerance(self, name: str) -> float:
        return self.manifest["suggested_max_abs_tolerance"][name]


def parity_folder(system: str) -> Path:
    return Path(os.environ.get("EXEMPLAR_PARITY_DIR") or Path(__file__).parent / "data") / system


@pytest.fixture(scope="session")
def exemplar_set() -> ParitySet:
    return ParitySet(parity_folder("exemplar"))


@pytest.fixture(scope="session")
def ddcolor_set() -> DDColorSet:
    return DDColorSet(parity_folder("ddcolor"))


@pytest.fixture(scope="session")
def measure_set() -> MeasureSet:
    folder = parity_folder("measure")
    if not folder.is_dir():
        pytest.skip(f"{folder.parent} has no recorded measures")
    return MeasureSet(folder)


@pytest.fixture(scope="session")
def ddcolor_tiny_weights(ddcolor_set):
    """The smaller architecture's weights; about a second."""
    return ddcolor_set.weights("convnext_t")


@pytest.fixture(scope="session")
def deadiff_set() -> DEADiffSet:
    return DEADiffSet(parity_folder("deadiff"))


@pytest.fixture(scope="session")
def lcad_set() -> LCADSet:
    return LCADSet(parity_folder("lcad"))


@pytest.fixture(scope="session")
def vct_set() -> VCTSet:
    return VCTSet(parity_folder("vct"))
