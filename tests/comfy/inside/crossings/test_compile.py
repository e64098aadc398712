"""TorchCompileModel: the wrapper that it sets, with a backend that needs no compiler."""

import pytest
import torch

from .cells import check, meets
from .columns import COLUMNS, GUIDERS

CELLS = [("TorchCompile", c) for c in (*COLUMNS, *GUIDERS) if meets("TorchCompile", c)]


def compiled(model):
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    made = model.clone()
    set_torch_compile_wrapper(model=made, backend="eager")
    return made


@pytest.mark.parametrize("column", [c for _, c in CELLS])
def test_cell(columns, embedded, column, caplog):
    """The wrapper alone, without the minute that tracing takes."""
    name, column, model = column, columns(column), embedded[0]
    ours = [compiled(model)] if name in GUIDERS else [compiled(column.made(model)), column.made(compiled(model))]
    with torch.compiler.set_stance("force_eager"):
        for placed in ours:
            check(
                "TorchCompile", name, lambda placed=placed: column.found(placed), lambda: column.expected(model), caplog
            )


@pytest.mark.slow
def test_traced(columns, embedded, caplog):
    column, model = columns("injection"), embedded[0]
    ours = compiled(column.made(model))
    try:
        check(
            "TorchCompile", "injection", lambda: column.found(ours), lambda: column.expected(model), caplog, model=ours
        )
    finally:
        torch._dynamo.reset()
