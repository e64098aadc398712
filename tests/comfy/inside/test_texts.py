"""The stand-in for ComfyUI's schema classes (``tests/stand_in``) says what the real ones say.

All other checks of texts rest on it and need no ComfyUI (``tests/test_texts.py``, ``tests/test_schemas.py``).
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from comfy_api.latest import io

from comfyui_exemplar.nodes import NODES

DUMP = Path(__file__).resolve().parents[2] / "stand_in" / "dump.py"


def load_dump():
    spec = importlib.util.spec_from_file_location("stand_in_dump", DUMP)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


REAL = load_dump().schemas(NODES, io.WidgetInput)


@pytest.fixture(scope="module")
def stand_in():
    """Schemas read through the stand-in, in a process that knows nothing of ComfyUI."""
    done = subprocess.run(
        [sys.executable, str(DUMP)], capture_output=True, text=True, encoding="utf-8", cwd=DUMP.parent
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_nodes_and_their_order(stand_in):
    assert list(stand_in) == list(REAL)


@pytest.mark.parametrize("node", REAL)
def test_same_schema(node, stand_in):
    real, other = REAL[node], dict(stand_in[node])
    for parts in ("inputs", "outputs"):
        assert len(real[parts]) == len(other[parts])
        for mine, theirs in zip(other.pop(parts), real[parts], strict=True):
            if (
                mine["id"] in ("model_name", "image", "folder", "memory_name") and "options" in mine
            ):  # the stand-in has no files, this ComfyUI may have some
                assert set(mine.pop("options")) <= set(theirs["options"])
                theirs = {key: value for key, value in theirs.items() if key != "options"}
            same(f"{node}.{theirs['id']}", mine, theirs)
    same(node, other, {key: value for key, value in real.items() if key not in ("inputs", "outputs")})


def same(name, mine, real):
    """What the stand-in has is as in ComfyUI, and of what it lacks the pack uses nothing."""
    assert {key: real.get(key) for key in mine} == mine, name
    used = {key: value for key, value in real.items() if key not in mine and value not in (None, False, "", [], {})}
    assert not used, f"{name}: the stand-in lacks these"
