"""Prompts that act on a part of the picture or of the run, in several parts, with ControlNet and with hooks."""

import pytest

import nodes as stock

from .cells import check, meets
from .columns import COLUMNS, GUIDERS
from .neighbors import core, run_node
from .prompts import LEFT, Residuals, controlled, halved, masked, mixed, ranged, share_above

KEYS = ("Combined", "Masked", "Ranged", "Area", "Bounds", "ControlNet")
CELLS = [(key, c) for key in KEYS for c in (*COLUMNS, *GUIDERS) if meets(key, c)]


def parts_of(key, column, model):
    """(CONDITIONING, what ``mixed`` takes)."""
    one, other = column.positive, halved(column.positive)
    if key == "Combined":
        made = stock.ConditioningCombine().combine(one, other)[0]
        return made, [(made[0], None, None), (made[1], None, None)]
    if key == "Masked":
        made = [*masked(one, LEFT), *masked(other, 1 - LEFT)]
        return made, [(made[0], LEFT, None), (made[1], 1 - LEFT, None)]
    if key == "Ranged":
        share, sigma = share_above(model, float(column.sigmas[1]) * 1.01)
        made = [*ranged(one, 0.0, share), *ranged(other, share, 1.0)]
        return made, [(made[0], None, (1e9, sigma)), (made[1], None, (sigma, 0.0))]
    if key == "Area":
        made = [*one, *stock.ConditioningSetArea().append(other, 32, 32, 0, 0, 1.0)[0]]
        return made, [(made[0], None, None), (made[1], None, None, (4, 4))]
    made = [*one, *masked(other, LEFT, "mask bounds")]
    return made, None


@pytest.mark.parametrize(("key", "column"), CELLS, ids=[f"{k}-{c}" for k, c in CELLS])
def test_cell(columns, embedded, key, column, caplog):
    name, column, model = column, columns(column), embedded[0]
    ours = model if name in GUIDERS else column.made(model)
    if key == "ControlNet":
        positive = controlled(column.positive)

        def prepare(reference):
            conditional = reference.conditional
            reference.conditional = lambda x, sigma, **kw: conditional(x, sigma, control=Residuals(), **kw)
    else:
        positive, parts = parts_of(key, column, model)
        if parts is None and name == "deadiff":  # the mask's bounds are the left half, where it is 1
            parts = [(positive[0], None, None), (positive[1], None, None, (16, 8))]

        def prepare(reference):
            mixed(reference, parts)

    levels = column.sigmas if key == "Ranged" else column.levels(key, name)
    check(
        key,
        name,
        lambda: column.found(ours, positive, levels),
        lambda: column.expected(model, levels, prepare),
        caplog,
        says="area",
        model=ours,
    )


def test_default_prompts_fill_the_rest(columns, embedded):
    """Set Default and Combine: what a masked prompt leaves."""
    node = core("ConditioningSetDefaultCombine", "nodes_hooks")
    column, model = columns("injection"), embedded[0]
    made = run_node(node, masked(column.positive, LEFT), halved(column.positive))[0]
    parts = [(made[0], LEFT, None), (made[1], 1 - LEFT, None)]
    from ..sampling import difference
    from .cells import TOLERANCE

    found = column.found(column.made(model), made)
    assert difference(found, column.expected(model, prepare=lambda r: mixed(r, parts))) < TOLERANCE
