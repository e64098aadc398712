"""Rows of tensors, taken and put without an index tensor.

An index made of a Python list is a tensor that has to go to the device first, and the host waits for that. Rows that
are evenly spaced are a view instead, and any others a few views joined.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor


def spans(rows: Sequence[int]) -> list[slice]:
    """Rows in their order as few slices: one where they are evenly spaced, else one for each stretch of neighbors."""
    if not rows:
        return [slice(0, 0)]
    pitch = rows[1] - rows[0] if len(rows) > 1 else 1
    if pitch > 0 and all(b - a == pitch for a, b in pairwise(rows)):
        return [slice(rows[0], rows[-1] + 1, pitch)]
    starts = [i for i in range(len(rows)) if not i or rows[i] != rows[i - 1] + 1]
    return [slice(rows[a], rows[b - 1] + 1) for a, b in zip(starts, [*starts[1:], len(rows)], strict=True)]


def taken(tensor: Tensor, rows: Sequence[int], dim: int = 0) -> Tensor:
    """Some of a tensor's rows, in this order; a view of it where they are evenly spaced.

    :param dim: along which they count.
    """
    before = (slice(None),) * (dim % tensor.ndim)
    parts = [tensor[(*before, span)] for span in spans(rows)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def compact(tensor: Tensor) -> Tensor:
    """A tensor that keeps nothing else in memory: itself, or a copy where it is a part of a larger one."""
    return tensor if tensor.untyped_storage().nbytes() <= tensor.nbytes else tensor.clone()


def put(tensor: Tensor, rows: Sequence[int], values: Tensor) -> None:
    """Write rows into a tensor, in place: ``values[i]`` becomes its row ``rows[i]``."""
    at = 0
    for span in spans(rows):
        count = len(range(span.start, span.stop, span.step or 1))
        tensor[span] = values[at : at + count]
        at += count
