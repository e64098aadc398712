"""The pack's own edits on one MODEL, and learning on a MODEL that has some."""

import pytest
import torch
import torch.nn.functional as F

from comfyui_exemplar.hosts.comfy.borrowed import gradients
from comfyui_exemplar.hosts.comfy.gradients import DifferentiableUNet, clone_for_autograd

from ..sampling import invert
from . import naive
from .cells import check, meets, told
from .columns import COARSE, COLUMNS, FINE, GUIDERS
from .prompts import LEFT
from .reference import Reference
from .test_capture import compare

ALL = ("capture", *COLUMNS, *GUIDERS)
CELLS = [(key, c) for key in ("Second", "OnInjection", "OnTokens", "Learning") for c in ALL if meets(key, c)]


def of(key):
    return [c for k, c in CELLS if k == key and c != "capture"]


def on_the_left(grid):
    """(1, N, 1): how much of each token the left half covers."""
    return F.adaptive_avg_pool2d(LEFT[None], tuple(grid)).flatten()[None, :, None]


@pytest.mark.parametrize("column", of("Second"))
def test_second(columns, embedded, column, caplog):
    name, column, model = column, columns(column), embedded[0]
    if name == "injection":
        other = {**COARSE, **dict.fromkeys(FINE, (0.2, 0.0))}
        ours = column.made(column.made(model), gamma_shallow=0.2, beta_shallow=0.0, input_mask=LEFT)

        def prepare(reference):
            reference.beneath, reference.edit = reference.edit, column.naive(other, mask=on_the_left)
    elif name == "deadiff":
        ours = column.made(column.made(model))

        def prepare(reference):
            reference.beneath = reference.edit
    else:  # chained nodes are one
        ours, prepare = model, None
        for phrase, mask in zip(("red apple", "blue car"), column.masks, strict=True):
            ours = column.made(ours, masks=mask[None], phrases=phrase)
    levels = column.levels("Second", name)
    expected = lambda: column.expected(model, levels, prepare)  # noqa: E731
    check("Second", name, lambda: column.found(ours, sigmas=levels), expected, caplog, model=ours)


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("column", of("OnInjection"))
def test_with_injection(columns, embedded, column, order, caplog):
    name, column, below, model = column, columns(column), columns("injection"), embedded[0]
    ours = column.made(below.made(model)) if order == "before" else below.made(column.made(model))

    def prepare(reference):
        reference.beneath = below.naive()

    latent, sigmas = column.latent, column.sigmas
    column.latent, column.sigmas = below.latent, below.sigmas
    try:
        levels = column.levels("OnInjection", name)
        expected = lambda: column.expected(model, levels, prepare)  # noqa: E731
        check("OnInjection", name, lambda: column.found(ours, sigmas=levels), expected, caplog, model=ours)
    finally:
        column.latent, column.sigmas = latent, sigmas


@pytest.mark.parametrize("column", of("OnTokens"))
def test_with_tokens(columns, embedded, column, caplog):
    name, column, below, model = column, columns(column), columns("deadiff"), embedded[0]
    theirs = below.made(model)
    ours = theirs if name in GUIDERS else column.made(theirs)

    def prepare(reference):
        reference.beneath = below.naive()
        if getattr(reference, "beside", None) is not None:
            reference.beside.beneath = below.naive(nobody=True)  # the target alone has the reference's tokens

    levels = column.levels("OnTokens", name)
    expected = lambda: column.expected(model, levels, prepare)  # noqa: E731
    check("OnTokens", name, lambda: column.found(ours, sigmas=levels), expected, caplog, model=ours)


def test_inversion_with_tokens(columns, nodes, embedded, scene):
    below, empty = columns("deadiff"), embedded[3]
    samples = embedded[2].encode(scene[0])
    theirs = below.made(embedded[0])
    made = invert(nodes, theirs, empty, samples, depth=2, steps=20, measure_round_trip=False)[0]
    reference = Reference(embedded[0], empty, empty, naive.Recorded([*COARSE, *FINE]), 1.0)
    reference.beneath = below.naive()
    compare(reference, embedded, scene, made, embedded[0])


@pytest.mark.parametrize("column", of("Learning"))
def test_learning(columns, embedded, column, caplog):
    column, model = columns(column), embedded[0]
    with gradients():
        x, context = (clone_for_autograd(t) for t in (column.latent["samples"], column.positive[0][0]))
        plain = DifferentiableUNet(model)(x, 2.0, context)
        assert not told(caplog)
        found = DifferentiableUNet(column.made(model))(x, 2.0, context)
    assert torch.equal(found, plain)
    (warning,) = told(caplog)
    assert column.name in warning and "no part in learning" in warning
