"""Whether a cell of the table of ``texts.crossings`` is what the table says."""

import logging
from contextlib import contextmanager

import pytest
import torch

from comfyui_exemplar.texts.crossings import ASIDE, NOTHING, REFUSED, TOGETHER, WARNED, outcome

from ..sampling import difference

#: Between a batch and single rows, of latents whose values are below 100.
TOLERANCE = 3e-4


def meets(key, column):
    """Whether a row and a column have anything to do with one another."""
    return outcome(key, column) != NOTHING


def told(caplog):
    """The pack's warnings."""
    return [
        r.getMessage() for r in caplog.records if r.name.startswith("comfyui_exemplar") and r.levelno >= logging.WARNING
    ]


def check(key, column, found, expected, caplog, *, name="", says="", model=None, tolerance=TOLERANCE):
    """Run a cell and hold it against what was computed another way.

    :param found: what the nodes do, as a function; ``expected`` is the number, as a function, None where it is refused.
    :param name: of our node, with which a warning begins.
    :param says: what an error or a warning names.
    :param model: a MODEL whose options must stay as they are.
    """
    wanted = outcome(key, column)
    options = None if model is None else str(model.model_options)
    caplog.clear()
    if wanted == REFUSED:
        with pytest.raises(ValueError, match=says):
            found()
        assert not told(caplog)
    else:
        made, warnings = found(), told(caplog)
        if wanted == TOGETHER:
            assert not warnings, warnings
        else:
            assert wanted in (ASIDE, WARNED) and len(warnings) == 1, warnings
            assert warnings[0].startswith(name) and says in warnings[0], warnings
        far = difference(made, expected())
        assert far < tolerance, far
    assert model is None or str(model.model_options) == options


@contextmanager
def same_draws(model):
    """Every call of a MODEL's UNet draws the same from torch's global generator, which Token Merging uses."""
    first = model.model.diffusion_model.input_blocks[0][0]
    hook = first.register_forward_pre_hook(lambda *_: torch.manual_seed(0) and None)
    try:
        yield
    finally:
        hook.remove()
