"""What any tensor must be before anything is done with it: numbers in memory, and finite ones."""

from __future__ import annotations

import torch

#: What no number reaches that a network reads: pure noise of the highest level that any schedule has, by hundreds.
LARGEST = 1e8

#: What numbers are kept in between operations; others (whole ones, complex ones, eight bits) are none that come in.
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_tensor(value: object, name: str, expected: str) -> None:
    """Whether something is numbers that lie in memory, one after another.

    :raises ValueError: it is not; the message starts with ``name``.
    """
    kind = _other_kind(value)
    if kind:
        raise ValueError(f"{name}: found {kind}, expected {expected}; look at the node that made it.")


def check_finite(values: torch.Tensor, name: str, expected: str) -> None:
    """Whether floats are numbers that a network can read.

    :raises ValueError: NaN, infinite, or :data:`LARGEST` and above; the message starts with ``name``.
    """
    if not is_finite(values):
        raise ValueError(
            f"{name}: found NaN, infinite or huge values, expected {expected}; look at the node that made it."
        )


def is_finite(*tensors: torch.Tensor, below: float = LARGEST) -> bool:
    """Whether all numbers of tensors lie between ``-below`` and ``below``.

    Each tensor is looked at once: its smallest and its largest number, which are NaN where any number is.
    """
    extremes = [torch.stack(torch.aminmax(values.detach())).cpu().double() for values in tensors if values.numel()]
    return not extremes or bool((torch.cat(extremes).abs() < below).all())  # NaN is below nothing


def _other_kind(value: object) -> str:
    """What something is that is no tensor in memory; "" for one."""
    if not isinstance(value, torch.Tensor):
        return "nothing" if value is None else type(value).__name__
    if value.is_nested or value.layout is not torch.strided:
        return "a nested tensor" if value.is_nested else "a sparse tensor"
    return "a tensor without memory (meta)" if value.is_meta else ""
