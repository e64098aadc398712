"""Guiders of ComfyUI, each of which asks for its prompts in an order of its own."""

import pytest
import torch

from comfyui_exemplar.hosts.comfy.embedded import load_demo

from ..sampling import run_guider
from .cells import check, meets
from .columns import COLUMNS
from .neighbors import core, perp_neg, run_node
from .prompts import halved

KEYS = ("BasicGuider", "DualCFGGuider", "PerpNegGuider", "DualModelGuider")
CELLS = [(key, c) for key in KEYS for c in COLUMNS if meets(key, c)]
MODULES = {"PerpNegGuider": "nodes_perpneg"}


@pytest.fixture(scope="module")
def second():
    """Another model of the same family."""
    with torch.inference_mode():
        model = load_demo()[0]
    model.model.diffusion_model.out[2].weight.data.mul_(0.9)
    return model


@pytest.mark.parametrize(("key", "column"), CELLS, ids=[f"{k}-{c}" for k, c in CELLS])
def test_cell(columns, embedded, second, key, column, caplog):
    node = core(key, MODULES.get(key, "nodes_custom_sampler"))
    if node is None:
        pytest.skip(f"this ComfyUI has no {key}")
    name, column, model = column, columns(column), embedded[0]
    ours, middle, levels = column.made(model), halved(column.positive), column.levels(key, name)
    empty = [[torch.zeros_like(column.positive[0][0]), {}]]

    def formulas(reference):
        """Of each way to use the node: (values, (x, sigma) -> clean estimate)."""

        def negative(x, sigma):
            return reference.predict(x, sigma, column.negative[0], 1)

        def between(x, sigma):
            return reference.predict(x, sigma, middle[0], 1)

        def regular(x, sigma):
            neg, mid = negative(x, sigma), between(x, sigma)
            return neg + 2.0 * (mid - neg) + 3.0 * (reference.conditional(x, sigma) - mid)

        def nested(x, sigma):
            neg, mid = negative(x, sigma), between(x, sigma)
            return neg + 2.0 * (mid + 3.0 * (reference.conditional(x, sigma) - mid) - neg)

        def perpendicular(x, sigma):
            nothing = reference.predict(x, sigma, empty[0], 1)
            return perp_neg(reference.conditional(x, sigma), between(x, sigma), nothing, 0.5, 3.0)

        def by_two(x, sigma):
            here, reference.base = reference.base, second.model
            neg = negative(x, sigma)
            reference.base = here
            return neg + 3.0 * (reference.conditional(x, sigma) - neg)

        def by_one(x, sigma):
            neg = negative(x, sigma)
            return neg + 3.0 * (reference.conditional(x, sigma) - neg)

        pos, neg = column.positive, column.negative
        return {
            "BasicGuider": [((pos,), reference.conditional)],
            "DualCFGGuider": [
                ((pos, middle, neg, 3.0, 2.0, "regular"), regular),
                ((pos, middle, neg, 3.0, 2.0, "nested"), nested),
            ],
            "PerpNegGuider": [((pos, middle, empty, 3.0, 0.5), perpendicular)],
            "DualModelGuider": [((pos, 3.0, second, neg), by_two), ((pos, 3.0, model, neg), by_one)],
        }[key]

    for at, (values, _) in enumerate(formulas(column.reference(model))):

        def found(values=values):
            return run_guider(run_node(node, ours, *values)[0], column.latent, levels)

        def prepare(reference, at=at):
            formula = formulas(reference)[at][1]

            def denoise(x, sigma):
                reference.asked = {}
                return formula(x, sigma)

            reference.denoise = denoise

        check(key, name, found, lambda prepare=prepare: column.expected(model, levels, prepare), caplog, model=ours)
