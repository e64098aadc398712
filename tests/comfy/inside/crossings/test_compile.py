"""TorchCompileModel: the wrapper that it sets, with a backend that needs no compiler."""

import pytest
import torch

from .cells import check, meets
from .columns import COLUMNS, GUIDERS

CELLS = [("TorchCompile", c) for c in (*COLUMNS, *GUIDERS) if meets("TorchCompile", c)]


def compiled(model, keys=("diffusion_model",)):
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    made = model.clone()
    set_torch_compile_wrapper(model=made, backend="eager", keys=list(keys))
    return made


@pytest.mark.parametrize("column", [c for _, c in CELLS])
def test_cell(columns, embedded, column, caplog):
    """The wrapper alone, without the minute that tracing takes."""
    name, column, model = column, columns(column), embedded[0]
    ours = [compiled(model)] if name in GUIDERS else [compiled(column.made(model)), column.made(compiled(model))]
    levels = column.levels("TorchCompile", name)
    with torch.compiler.set_stance("force_eager"):
        for placed in ours:
            found = lambda placed=placed: column.found(placed, sigmas=levels)  # noqa: E731
            check("TorchCompile", name, found, lambda: column.expected(model, levels), caplog)


def test_traced(columns, embedded, caplog):
    """One block with an edited layer is really traced."""
    column, model = columns("injection"), embedded[0]
    ours, levels = (
        compiled(column.made(model), ["diffusion_model.output_blocks.4.1.transformer_blocks.0"]),
        column.levels("TorchCompile", "injection"),
    )
    found = lambda: column.found(ours, sigmas=levels)  # noqa: E731
    try:
        check("TorchCompile", "injection", found, lambda: column.expected(model, levels), caplog, model=ours)
    finally:
        torch._dynamo.reset()
