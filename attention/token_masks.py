"""Masks of pictures as masks of a layer's tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def check_reference_mask(mask: Tensor) -> None:
    """:raises ValueError: a mask, (B, H, W), that leaves nothing to look at."""
    if not bool((mask > 0.5).any(dim=(1, 2)).all()):
        raise ValueError(
            "reference_mask: found a mask with nothing above one half, expected some place where color may come from; "
            "paint one, or disconnect the mask."
        )


def tokens_in_mask(mask: Tensor, grid: tuple[int, int]) -> list[Tensor]:
    """For each mask of (B, H, W), the tokens of which it covers at least one half."""
    # a region smaller than a token still has one: the token that it covers best
    return [torch.nonzero(row >= min(0.5, float(row.max()))).squeeze(1) for row in to_grid(mask, grid)]


def to_grid(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Share of each token that a mask covers: (B, H, W) -> (B, h·w)."""
    return F.adaptive_avg_pool2d(mask.float().unsqueeze(1), grid).flatten(1)
