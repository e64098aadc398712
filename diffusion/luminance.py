"""Luminance in latent space, by the linear latent-to-RGB map that previews use."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: Rec. 601 luma, the weights under which the officials make their gray copies.
LUMA = (0.299, 0.587, 0.114)


def luma_direction(rgb_factors: Sequence[Sequence[float]]) -> Tensor:
    """(C,): gradient of luma with respect to the latent, from (C, 3) latent-to-RGB factors."""
    return torch.tensor(rgb_factors, dtype=torch.float32) @ torch.tensor(LUMA)


def pull_luminance(latent: Tensor, gray: Tensor, direction: Tensor, strength: float = 1.0) -> Tensor:
    """Move a latent along the luma direction until it has the luma of a gray picture's latent.

    The smallest change that does so: the rest of the latent, color above all, stays.

    :param latent: (B, C, h, w).
    :param gray: (B or 1, C, h, w), the gray picture's clean latent.
    :param direction: (C,), see :func:`luma_direction`.
    :param strength: 0 returns the latent itself, 1 takes the gray picture's luma.
    """
    if strength == 0:
        return latent
    w = direction.to(latent).view(1, -1, 1, 1)
    missing = ((gray.to(latent) - latent) * w).sum(1, keepdim=True) / w.pow(2).sum()
    return latent + strength * missing * w
