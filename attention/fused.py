"""Mixtures of attentions as fused calls: no attention map is ever built.

Source: Kosugi 2025 (arXiv 2505.15812), the dual attention-guided color transfer. The paper blends two logit matrices,

    S = γ · q₁k₁ᵀ + (1 − γ) · q₂k₂ᵀ,        output = softmax(S / √d) · v,

which is one attention over concatenated features: with q = [γ·q₁, (1−γ)·q₂] and k = [k₁, k₂], qkᵀ is S itself.

In half precision what is multiplied into q rounds it anew, and sharp attention feels that: at γ = ½ and logits of a
deviation of 36 the output was 7 times as far off as plain attention's. There the larger of γ and 1 − γ is left to the
scale of the logits, which the kernels apply in float32, and only the other half of q is multiplied. In float32 the
factors stay in q: rounding is not felt there, and passing a scale would change last bits, of which some reach pictures.
"""

from __future__ import annotations

import inspect
import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .call import HALVES, Attend


def sdpa(q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float | None = None) -> Tensor:
    """Torch's fused attention on tokens, an :class:`.call.Attend`: q (B, N, H·d), v (B, M, H·e) -> (B, N, H·e)."""
    width, values = q.shape[-1] // heads, v.shape[-1] // heads
    if values < width and not takes_narrow(k.device, k.dtype, width, values):
        v = widened(v, heads, width)
    if scale is not None and not torchs_own():
        q, scale = with_factor(q, scale * math.sqrt(width)), None
    q, k, v = (by_head(t, heads) for t in (q.to(k.dtype), k, v))
    attention = F.scaled_dot_product_attention
    out = attention(q, k, v) if scale is None else attention(q, k, v, scale=scale)
    return out[..., :values].transpose(1, 2).flatten(2)


def torchs_own() -> bool:
    """Whether torch's attention is its own: packs put kernels in its place that ignore a scale (``sageattn`` does)."""
    return inspect.isbuiltin(F.scaled_dot_product_attention)


def with_factor(q: Tensor, factor: float) -> Tensor:
    """Queries for a function that takes no scale, multiplied in float32; whoever calls it rounds them."""
    return q.float() * factor


def by_head(tokens: Tensor, heads: int) -> Tensor:
    """Tokens (B, N, H·d) -> (B, H, N, d), a view."""
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)


def widened(tokens: Tensor, heads: int, width: int) -> Tensor:
    """Tokens (B, N, H·d) with zeros behind the features of each head -> (B, N, H·width)."""
    split = tokens.unflatten(-1, (heads, -1))
    return F.pad(split, (0, width - split.shape[-1])).flatten(2)


def takes_narrow(device: torch.device, dtype: torch.dtype, width: int, values: int) -> bool:
    """Whether torch's attention runs on heads whose values are narrower than its keys without building maps.

    Flash attention is the fastest that torch has, and wants values as wide as the keys. Where it does not run (float32,
    heads wider than 256, GPUs before Ampere, torch on Windows) the memory-efficient kernel does, which takes any width.
    On a CPU, and on GPUs other than NVIDIA's, narrow values mean maps.
    """
    if device.type != "cuda" or torch.version.hip is not None or not torchs_own():
        return False
    return _efficient(device, dtype, width, values)


@lru_cache
def _efficient(device: torch.device, dtype: torch.dtype, width: int, values: int) -> bool:
    """What torch itself says to that."""
    backends = torch.backends.cuda
    q, v = (torch.empty(1, 1, 8, size, device=device, dtype=dtype) for size in (width, values))
    try:
        wide, narrow = (backends.SDPAParams(q, q, one, None, 0.0, False, False) for one in (q, v))
    except TypeError:  # torch before 2.5 wants to be asked in other words
        return False
    return not backends.can_use_flash_attention(wide) and backends.can_use_efficient_attention(narrow)


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
    k = _per_head(heads, k1, k2)
    if k.dtype not in HALVES:
        # the fused call scales by (2d)^-1/2; √2 on the queries gives back d^-1/2
        q = _per_head(heads, math.sqrt(2) * gamma * q1, math.sqrt(2) * (1 - gamma) * q2)
        return attend(q, k, v, heads)
    most = max(gamma, 1 - gamma)
    scale = most / math.sqrt(q1.shape[-1] // heads)
    q1, q2 = (q if share == most else q.float() * (share / most) for q, share in ((q1, gamma), (q2, 1 - gamma)))
    return attend(_per_head(heads, q1, q2), k, v, heads, scale)


def blend_after_softmax(
    q1: Tensor, k1: Tensor, q2: Tensor, k2: Tensor, v: Tensor, gamma: float, heads: int, attend: Attend
) -> Tensor:
    """(γ·softmax(q₁k₁ᵀ/√d) + (1−γ)·softmax(q₂k₂ᵀ/√d)) · v: two fused calls, mixed. Shapes as above."""
    if gamma == 1:
        return attend(q1, k1, v, heads)
    if gamma == 0:
        return attend(q2, k2, v, heads)
    first, second = attend(q1, k1, v, heads), attend(q2, k2, v, heads)
    if first.dtype in HALVES:  # rounded once instead of three times
        return torch.lerp(second, first, gamma)
    return gamma * first + (1 - gamma) * second


def blend_beside(
    q1: Tensor,
    k1: Tensor,
    q2: Tensor,
    k2: Tensor,
    v: Tensor,
    beside: tuple[Tensor, Tensor],
    gamma: float,
    heads: int,
    attend: Attend,
) -> Tensor:
    """:func:`blend_before_softmax` where other tokens stand in the same attention, to which ``q2`` alone attends.

    The prompt's tokens keep the say that they have: their logits are q₂·kᵀ/√d, whatever γ is.

    :param beside: keys and values (B, T, H·d), which come first. The factor of the second pair stands on its keys,
        since the queries serve both.
    """
    keys, values = beside
    v = torch.cat([values, v], 1)
    if gamma == 0:
        return attend(q2, torch.cat([keys, k2], 1), v, heads)
    k = _per_head(heads, k1, (k2.float() * (1 - gamma)).to(k2))
    k = torch.cat([_per_head(heads, torch.zeros_like(keys), keys), k], 1)
    if k.dtype not in HALVES:
        # the fused call scales by (2d)^-1/2; √2 on the queries gives back d^-1/2
        return attend(_per_head(heads, math.sqrt(2) * gamma * q1, math.sqrt(2) * q2), k, v, heads)
    scale = 1 / math.sqrt(q2.shape[-1] // heads)
    return attend(_per_head(heads, q1 if gamma == 1 else q1.float() * gamma, q2), k, v, heads, scale)


def _per_head(heads: int, first: Tensor, second: Tensor) -> Tensor:
    """Concatenate features head by head: two (B, N, H·d) -> (B, N, H·2d), as precise as the more precise."""
    return torch.cat([t.unflatten(-1, (heads, -1)) for t in (first, second)], dim=-1).flatten(2)


def attend_with_bias(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, groups: Tensor, heads: int, attend: Attend = sdpa
) -> Tensor:
    """softmax(qkᵀ/√d + bias·groupsᵀ) · v in one fused call: a bias that groups of keys share costs a few features.

    :param q: (B, N, H·d); ``k`` and ``v`` are (B, M, H·d).
    :param bias: (B, H or 1, N, G), added to a query's logits with all tokens of a group.
    :param groups: (M, G), how much a key token belongs to each group: 0 or 1.
    """
    width, count = q.shape[-1] // heads, groups.shape[-1]
    half = q.dtype in HALVES
    extra = 2 * count if half else count
    spare = -(width + extra) % 8 + extra  # fused kernels want widths in eights
    asked = bias.expand(-1, heads, -1, -1).transpose(1, 2)
    if half:
        # Twice the features: the second half brings what rounding took from the first. No product may pass what half
        # precision can hold; nothing is left of a token's attention long before.
        most = torch.finfo(q.dtype).max / (2 * count)
        asked = (asked.float() * math.sqrt(width)).clamp(-most, most)
        asked = torch.cat([asked, asked - asked.to(q).float()], dim=-1)
        groups = groups.repeat(1, 2)
    else:
        # the fused call scales by wide^-1/2
        asked = asked * math.sqrt(width + spare)
        q = q * math.sqrt((width + spare) / width)
    member = groups.to(k).unsqueeze(1).expand(k.shape[0], -1, heads, -1)
    q, k = _widen(q, asked.to(q), heads, spare), _widen(k, member, heads, spare)
    return attend(q, k, v, heads, 1 / math.sqrt(width)) if half else attend(q, k, v, heads)


def with_key_bias(attend: Attend, bias: Tensor | None) -> Attend:
    """Attention with a bias on its keys, softmax(scale · q·kᵀ + bias) · v, as two more features a head.

    :param bias: (M,) float32, added to every query's logit of a key; None gives ``attend`` itself.
    """
    if bias is None:
        return attend

    def biased(q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float | None = None) -> Tensor:
        width = q.shape[-1] // heads
        scale = 1 / math.sqrt(width) if scale is None else scale
        spare = -(width + 2) % 8 + 2  # fused kernels want widths in eights
        asked = bias.to(k.device) / scale
        coarse = asked.to(k.dtype)
        fine = (asked - coarse.float()).to(k.dtype)  # what rounding took in half precision
        extra = torch.stack([coarse, fine], -1)[None, :, None].expand(k.shape[0], -1, heads, -1)
        ones = q.new_ones(()).expand(*q.shape[:2], heads, 2)
        return attend(_widen(q, ones, heads, spare), _widen(k, extra, heads, spare), v, heads, scale)

    return biased


def _widen(tokens: Tensor, extra: Tensor, heads: int, spare: int) -> Tensor:
    """Append features (B, N, H, e) and zeros to every head of tokens (B, N, H·d) -> (B, N, H·(d + spare))."""
    wide = F.pad(torch.cat([tokens.unflatten(-1, (heads, -1)), extra], dim=-1), (0, spare - extra.shape[-1]))
    return wide.flatten(2)
