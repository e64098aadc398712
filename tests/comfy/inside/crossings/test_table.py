"""Every cell of the table has a test, and the tests test nothing that the table lacks."""

import sys

from comfyui_exemplar.texts.crossings import COLUMNS, NOTHING, ROWS

from . import (
    test_caches,
    test_capture,
    test_capture_others,
    test_compile,
    test_conditionings,
    test_guiders,
    test_masks,
    test_models,
    test_ours,
    test_weights,
    test_windows,
)
from .neighbors import core

_MODULES = (
    test_caches,
    test_capture,
    test_capture_others,
    test_compile,
    test_conditionings,
    test_guiders,
    test_masks,
    test_models,
    test_ours,
    test_weights,
    test_windows,
)


def test_every_cell():
    tested = {
        (key if isinstance(key, str) else key.key, column)
        for module in _MODULES
        for key, column in (*module.CELLS, *getattr(module, "MORE", ()))
    }
    wanted = {
        (key, column)
        for rows in ROWS.values()
        for row in rows
        for key in row.keys
        for column in COLUMNS
        if row.outcome(column) != NOTHING
    }
    assert tested == wanted


def test_nodes_that_this_version_lacks(capsys):
    """They are skipped by name; most are there."""
    from .neighbors import BY_KEY

    lacking = sorted({n.node for n in BY_KEY.values() if core(n.node, n.module) is None})
    with capsys.disabled():
        sys.stdout.write(f"not in this ComfyUI: {', '.join(lacking) or 'none'}\n")
    assert len(lacking) <= 3
