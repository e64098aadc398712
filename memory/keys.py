"""Keys of a memory as they are stored: in full, in half precision, or in 8 bits with a factor a key and space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

#: How keys are stored.
Precision = Literal["float32", "float16", "int8"]

_LEVELS = 127


@dataclass(frozen=True)
class Keys:
    """Keys of all feature spaces side by side.

    :param data: (M, Σ width), float32, float16 or int8.
    :param widths: of the spaces.
    :param factors: (M, spaces) float16, what 8-bit numbers of a key in a space are multiplied by; None of floats.
    """

    data: Tensor
    widths: tuple[int, ...]
    factors: Tensor | None = None

    @property
    def precision(self) -> str:
        """A :data:`Precision`."""
        return str(self.data.dtype).removeprefix("torch.")

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return sum(t.numel() * t.element_size() for t in (self.data, self.factors) if t is not None)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, rows: slice | Tensor) -> Keys:
        return Keys(self.data[rows], self.widths, None if self.factors is None else self.factors[rows])

    def to(self, device: torch.device) -> Keys:
        """The same on a device."""
        return Keys(self.data.to(device), self.widths, None if self.factors is None else self.factors.to(device))

    def floats(self) -> Tensor:
        """(M, Σ width) float32."""
        if self.factors is None:
            return self.data.float()
        parts = zip(self.data.split(self.widths, -1), self.factors.float().split(1, -1), strict=True)
        return torch.cat([part.float() * factor for part, factor in parts], -1)


def stored(keys: Tensor, widths: Sequence[int], precision: Precision) -> Keys:
    """Keys in a precision.

    :param keys: (M, Σ width).
    :raises ValueError: half precision cannot hold them.
    """
    widths = tuple(widths)
    if precision == "float32":
        return Keys(keys.float(), widths)
    if precision == "float16":
        half = keys.half()
        if not bool(half.isfinite().all()):
            raise ValueError(
                "keys: found values beyond half precision, expected at most 65504; keep them in float32 or int8."
            )
        return Keys(half, widths)
    parts = keys.float().split(widths, -1)
    # rounded up to what half precision can say, so that no number exceeds 127
    factors = torch.stack([part.abs().amax(-1) for part in parts], -1) / _LEVELS
    factors = (factors * (1 + 2**-10)).clamp_min(2**-14).half()
    whole = [(part / f.float()).round() for part, f in zip(parts, factors.split(1, -1), strict=True)]
    return Keys(torch.cat(whole, -1).to(torch.int8), widths, factors)


def joined(keys: Sequence[Keys]) -> Keys:
    """All of some keys, one after another; of several precisions the largest."""
    if len({each.precision for each in keys}) > 1:
        full = "float32" if any(each.precision == "float32" for each in keys) else "float16"
        keys = [each if each.precision == full else stored(each.floats(), each.widths, full) for each in keys]
    factors = [each.factors for each in keys if each.factors is not None]
    return Keys(torch.cat([each.data for each in keys]), keys[0].widths, torch.cat(factors) if factors else None)
