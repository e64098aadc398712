"""Batches of pictures that ComfyUI splits into context windows: each picture is as if it were sampled alone."""

import pytest
import torch

from ..sampling import difference, run, run_guider
from .cells import TOLERANCE, check, meets, told
from .columns import COLUMNS, GUIDERS
from .neighbors import core, run_node

CELLS = [("ContextWindows", c) for c in (*COLUMNS, *GUIDERS) if meets("ContextWindows", c)]


def windows(model, overlap=0, **more):
    """Windows of two pictures. (Newer cores put the picture before a window into it.)"""
    node = core("ContextWindowsManual", "nodes_context_windows")
    return run_node(node, model, 2, overlap, "standard_static", 1, False, "pyramid", 0, False, **more)[0]


@pytest.mark.parametrize("column", [c for _, c in CELLS])
def test_cell(columns, embedded, column, caplog):
    name, column, model = column, columns(column), embedded[0]
    levels = column.levels("ContextWindows", name)
    samples = torch.cat([column.latent["samples"] * share for share in (1.0, 0.9, 0.8, 1.1)])
    ours = [windows(model)] if name in GUIDERS else [column.made(windows(model)), windows(column.made(model))]

    made = []

    def expected():
        made[:] = made or [torch.cat([column.reference(model).sample(one[None], levels) for one in samples])]
        return made[0]

    for placed in ours:
        check(
            "ContextWindows",
            name,
            lambda placed=placed: run_guider(column.guider(placed), {"samples": samples}, levels),
            expected,
            caplog,
            says="context windows",
            model=placed,
        )


@pytest.mark.parametrize("overlap", [0, 1])
def test_every_picture_takes_its_own_features(columns, nodes, embedded, scene, overlap, caplog):
    column, model = columns("injection"), embedded[0]
    gray = scene[0]
    images = torch.cat([gray, gray.flip(1), gray.flip(2), gray.transpose(1, 2)])
    (marked,) = nodes("ExemplarAttentionCapture", model=model, layers="color", keep="everything (q, k, v)")
    made = nodes(
        "ExemplarDDIMInversion",
        model=marked,
        conditioning=embedded[3],
        latent={"samples": embedded[2].encode(images)},
        depth=4,
        steps=50,
        measure_round_trip=False,
    )
    alone = column.inverted
    column.inverted = {**alone, "input": made}
    try:
        ours = windows(column.made(model), overlap)
        found = run(ours, column.positive, made[1], column.sigmas, negative=column.negative)
        expected = column.reference(model).sample(made[1]["samples"], column.sigmas)
    finally:
        column.inverted = alone
    assert not told(caplog) and difference(found, expected) < TOLERANCE
