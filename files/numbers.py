"""Whether weights are numbers that a network computes with: floating ones, all of them finite."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from ..color.tensors import is_finite
from .plain_json import short

#: Buffers that count something, by the ends of their names.
_COUNTS = re.compile(r"(^|\.)(position_ids|num_batches_tracked)$")
#: What no number of float32 reaches, the widest that anything computes in.
BEYOND = 2.0**128


def check_numbers(weights: Mapping[str, Tensor], prefix: str = "", called: str = "") -> None:
    """Refuse weights that no network can use. Only what is used needs to pass: each tensor is read once.

    :param weights: by their names in the file, less ``prefix``.
    :param called: what the message begins with, such as the file, where nobody else says it.
    :raises ValueError: naming the first that holds NaN, infinite values or other numbers than floating ones.
    """
    for name, tensor in weights.items():
        if _COUNTS.search(name) and not tensor.is_floating_point() and not tensor.is_complex():
            continue
        said = f"{called}: {short(prefix + name)}" if called else short(prefix + name)
        if not tensor.is_floating_point():
            raise ValueError(
                f"{said} holds {str(tensor.dtype).removeprefix('torch.')} numbers, expected float32, float16 or "
                "bfloat16: the file was saved wrongly; get it again."
            )
        if not tensor.is_meta and not is_finite(tensor, below=BEYOND):
            raise ValueError(
                f"{said} has NaN or infinite values: the file is damaged, or its training failed; get it again, or "
                "another one."
            )
