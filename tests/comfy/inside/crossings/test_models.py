"""Nodes of ComfyUI that patch a MODEL, beside the pack's edits: before them, after them, under its guiders."""

import pytest
import torch

from comfyui_exemplar.attention.layers import Layer
from comfyui_exemplar.texts.crossings import ASIDE, outcome

from .cells import TOLERANCE, check, meets, same_draws
from .columns import COARSE, COLUMNS, GUIDERS
from .naive import SELF
from .neighbors import NEIGHBORS, need, prepared

#: Self-attentions that a neighbor hands tiles, or fewer tokens than the inversion had: there the edit steps aside.
_FINEST = frozenset((SELF, layer) for layer in (Layer("input", 1), Layer("output", 4), Layer("output", 5)))
UNTOUCHED = {
    "HyperTile": _FINEST,
    "ToMe": _FINEST,
    "DeepShrinkFine": frozenset((SELF, layer) for layer in COARSE),
}
NAMED = {
    "HyperTile": "HyperTile",
    "ToMe": "Token Merging",
    "DeepShrinkFine": "Deep Shrink",
    "PerpNeg": "prompt of its own",
    "ModelSampling": "Model Sampling Discrete",
}
CELLS = [(n, c) for n in NEIGHBORS for c in (*COLUMNS, *GUIDERS) if meets(n.key, c)]


@pytest.mark.parametrize(("neighbor", "column"), CELLS, ids=[f"{n.key}-{c}" for n, c in CELLS])
def test_cell(columns, embedded, neighbor, column, caplog):
    need(neighbor)
    model, name = embedded[0], column
    column = columns(name)
    theirs, levels = neighbor.on(model), column.levels(neighbor.key, name)
    expected = []

    def reference():
        def prepare(made):
            prepared(neighbor)(made)
            if outcome(neighbor.key, name) == ASIDE:
                made.untouched = UNTOUCHED[neighbor.key]

        if not expected:
            expected.append(column.expected(theirs, levels, prepare, guidance=neighbor.guidance))
        return expected[0]

    ours = {"before": theirs} if name in GUIDERS else {}
    if not ours:
        ours = {"before": column.made(theirs), "after": neighbor.on(column.made(model))}
    for placed in ours.values():
        with same_draws(model):
            check(
                neighbor.key,
                name,
                lambda placed=placed: column.found(placed, sigmas=levels),
                reference,
                caplog,
                name=column.name,
                says=NAMED.get(neighbor.key, ""),
                model=placed,
                tolerance=TOLERANCE if neighbor.key != "ModelSampling" else 10 * TOLERANCE,  # its latents are larger
            )


@pytest.mark.parametrize("neighbor", NEIGHBORS, ids=lambda n: n.key)
def test_nothing_stays_behind(columns, embedded, neighbor):
    """With our nodes at their neutral values, and after all that ran above, the MODEL is the neighbor's bit for bit."""
    need(neighbor)
    theirs, column = neighbor.on(embedded[0]), columns("deadiff")
    neutral = theirs
    for name in COLUMNS:
        neutral = columns(name).nothing(neutral)
    with same_draws(embedded[0]):
        found, plain = (column.found(made, sigmas=column.sigmas[:2]) for made in (neutral, theirs))
        assert torch.equal(found, plain)
