"""Mixtures of attentions as fused calls: no attention map is ever built.

Source: Kosugi 2025 (arXiv 2505.15812), the dual attention-guided colour transfer. The paper blends two logit matrices,

    S = γ · q₁k₁ᵀ + (1 − γ) · q₂k₂ᵀ,        output = softmax(S / √d) · v,

which is one attention over concatenated features: with q = [γ·q₁, (1−γ)·q₂] and k = [k₁, k₂], qkᵀ is S itself.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .call import Attend


def sdpa(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Torch's fused attention on tokens: q (B, N, H·d), k, v (B, M, H·d) -> (B, N, H·d)."""
    split = [t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v)]
    return F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


def blend_before_softmax(
    q1: Tensor, k1: Tensor, q2: Tensor, k2: Tensor, v: Tensor, gamma: float, heads: int, attend: Attend
) -> Tensor:
    """softmax((γ·q₁k₁ᵀ + (1−γ)·q₂k₂ᵀ)/√d) · v in one fused call.

    :param q1: (B, N, H·d) like ``q2``; ``k1``, ``k2`` and ``v`` are (B, M, H·d): both key sets share the value tokens.
    :param gamma: weight of the first pair, 0..1.
    """
    if gamma == 1:
        return attend(q1, k1, v, heads)
    if gamma == 0:
        return attend(q2, k2, v, heads)
    # The fused call scales by (2d)^-1/2; √2 on the queries gives back d^-1/2.
    q = _per_head(heads, math.sqrt(2) * gamma * q1, math.sqrt(2) * (1 - gamma) * q2)
    k = _per_head(heads, k1, k2)
    # Fused kernels want values as wide as the keys; with narrower ones torch falls back to building the map.
    v_wide = _per_head(heads, v, torch.zeros_like(v))
    width = v.shape[-1] // heads
    return attend(q, k, v_wide, heads).unflatten(-1, (heads, -1))[..., :width].flatten(2)


def blend_after_softmax(
    q1: Tensor, k1: Tensor, q2: Tensor, k2: Tensor, v: Tensor, gamma: float, heads: int, attend: Attend
) -> Tensor:
    """(γ·softmax(q₁k₁ᵀ/√d) + (1−γ)·softmax(q₂k₂ᵀ/√d)) · v: two fused calls, mixed. Shapes as above."""
    if gamma == 1:
        return attend(q1, k1, v, heads)
    if gamma == 0:
        return attend(q2, k2, v, heads)
    return gamma * attend(q1, k1, v, heads) + (1 - gamma) * attend(q2, k2, v, heads)


def _per_head(heads: int, first: Tensor, second: Tensor) -> Tensor:
    """Concatenate features head by head: two (B, N, H·d) -> (B, N, H·2d)."""
    return torch.cat([t.unflatten(-1, (heads, -1)) for t in (first, second)], dim=-1).flatten(2)
