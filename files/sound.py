"""Whether weights are numbers that a network computes with: floating ones, all of them finite."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from .plain_json import short

#: Buffers that count something, by the ends of their names.
_COUNTS = re.compile(r"(^|\.)(position_ids|num_batches_tracked)$")


def check_numbers(weights: Mapping[str, Tensor], prefix: str = "") -> None:
    """Refuse weights that no network can use. Only what is used needs to pass: each tensor is read once.

    :param weights: by their names in the file, less ``prefix``.
    :raises ValueError: naming the first that holds NaN, infinite values or other numbers than floating ones.
    """
    for name, tensor in weights.items():
        if _COUNTS.search(name) and not tensor.is_floating_point() and not tensor.is_complex():
            continue
        if not tensor.is_floating_point():
            raise ValueError(
                f"{short(prefix + name)} holds {str(tensor.dtype).removeprefix('torch.')} numbers, expected float32, "
                "float16 or bfloat16: the file was saved wrongly; get it again."
            )
        if not is_finite(tensor):
            raise ValueError(
                f"{short(prefix + name)} has NaN or infinite values: the file is damaged, or its training failed; get "
                "it again, or another one."
            )


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite as float32, the widest that anything computes in.

    By the smallest and the largest, which are NaN where any number is: ten times as fast as asking each.
    """
    if tensor.is_meta or not tensor.numel():
        return True
    ends = torch.stack(torch.aminmax(tensor))
    return bool(torch.isfinite(ends.float()).all())
