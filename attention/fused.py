"""Mixtures of attentions as fused calls: no attention map is ever built.

Source: Kosugi 2025 (arXiv 2505.15812), the dual attention-guided color transfer. The paper blends two logit matrices,

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
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


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


def attend_with_bias(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, groups: Tensor, heads: int, attend: Attend = sdpa
) -> Tensor:
    """softmax(qkᵀ/√d + bias·groupsᵀ) · v in one fused call: a bias that groups of keys share costs a few features.

    :param q: (B, N, H·d); ``k`` and ``v`` are (B, M, H·d).
    :param bias: (B, H or 1, N, G), added to a query's logits with all tokens of a group.
    :param groups: (M, G), how much a key token belongs to each group: 0 or 1.
    """
    batch, _, channels = q.shape
    width = channels // heads
    spare = -(width + groups.shape[-1]) % 8 + groups.shape[-1]  # fused kernels want widths in eights
    wide = width + spare
    # the fused call scales by wide^-1/2
    asked = bias.expand(-1, heads, -1, -1).transpose(1, 2) * math.sqrt(wide)
    member = groups.to(k).reshape(1, -1, 1, groups.shape[-1]).expand(batch, -1, heads, -1)
    q_wide = _widen(q * math.sqrt(wide / width), asked.to(q), heads, spare)
    k_wide = _widen(k, member, heads, spare)
    v_wide = _widen(v, v.new_zeros(*v.shape[:2], heads, 0), heads, spare)
    return attend(q_wide, k_wide, v_wide, heads).unflatten(-1, (heads, -1))[..., :width].flatten(2)


def _widen(tokens: Tensor, extra: Tensor, heads: int, spare: int) -> Tensor:
    """Append features (B, N, H, e) and zeros to every head of tokens (B, N, H·d) -> (B, N, H·(d + spare))."""
    wide = F.pad(torch.cat([tokens.unflatten(-1, (heads, -1)), extra], dim=-1), (0, spare - extra.shape[-1]))
    return wide.flatten(2)
