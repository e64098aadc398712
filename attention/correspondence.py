"""Where a picture looks in another one: heat maps, warps and confidence, from kept queries and keys.

The weights are those of the color transfer's gray-to-gray term, softmax(q·kᵀ/√d) averaged over heads. A full map of
N x M weights is never built: a heat map needs the rows of its query tokens, everything else goes slice by slice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .fused import sdpa

#: Query tokens handled at once.
SLICE = 256


@dataclass(frozen=True)
class Correspondence:
    """The match of every query token among the key tokens.

    :param soft: (N, c), values averaged with the attention weights.
    :param hard: (N, c), the value of the token with the largest weight.
    :param index: (N,), that token.
    :param confidence: (N,) in 0..1: 0 when attention is spread evenly, 1 when it rests on one token.
    """

    soft: Tensor
    hard: Tensor
    index: Tensor
    confidence: Tensor


def _weights(q: Tensor, k: Tensor, heads: int, bias: Tensor | None = None) -> Iterator[Tensor]:
    """Head-averaged attention weights (at most SLICE, M), slice after slice of the queries.

    :param bias: (M,), added to the logits of each key; None for none.
    """
    if bias is not None:
        bias = bias.to(k.device)
    k = k.float().unflatten(-1, (heads, -1)).transpose(0, 1)
    for part in q.float().split(SLICE):
        split = part.unflatten(-1, (heads, -1)).transpose(0, 1)
        logits = split @ k.transpose(1, 2) * split.shape[-1] ** -0.5
        yield (logits if bias is None else logits + bias).softmax(-1).mean(0)


def heat(q: Tensor, k: Tensor, heads: int, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """How much attention a weighted set of query tokens pays to each key token.

    :param q: (N, H·d); ``k`` is (M, H·d).
    :param weight: (N,), not negative; its sum is normalized away.
    :param bias: (M,), added to the logits of each key; None for none.
    :returns: (M,), sums to 1.
    :raises ValueError: no token has any weight.
    """
    chosen = torch.nonzero(weight > 0).squeeze(1)
    if not len(chosen):
        raise ValueError(
            "mask: found one that covers nothing, expected some place in the input to look from; paint one, or "
            "disconnect the mask."
        )
    share = (weight[chosen] / weight[chosen].sum()).to(q.device)
    total = torch.zeros(k.shape[0], device=q.device)
    for part, rows in zip(share.split(SLICE), _weights(q[chosen.to(q.device)], k, heads, bias), strict=True):
        total += part @ rows
    return total


def warp(q: Tensor, k: Tensor, heads: int, values: Tensor) -> Tensor:
    """Values of the key tokens carried to the query tokens, (M, c) -> (N, c): one fused attention call.

    :raises ValueError: more value channels than one head is wide.
    """
    width = q.shape[-1] // heads
    channels = values.shape[-1]
    if channels > width:
        raise ValueError(f"{channels} value channels do not fit into heads of width {width}.")
    padded = F.pad(values.to(q), (0, width - channels)).repeat(1, heads)
    carried = sdpa(q[None], k[None], padded[None], heads)[0]
    return carried.unflatten(-1, (heads, width))[..., :channels].mean(1).float()


def correspond(q: Tensor, k: Tensor, heads: int, values: Tensor, bias: Tensor | None = None) -> Correspondence:
    """Soft and hard match of every query token, and how sure it is.

    :param q: (N, H·d); ``k`` is (M, H·d); ``values`` (M, c); ``bias`` (M,) of the logits.
    """
    values = values.float().to(q.device)
    soft, index, sure = [], [], []
    for rows in _weights(q, k, heads, bias):
        soft.append(rows @ values)
        index.append(rows.argmax(-1))
        sure.append(_certainty(rows))
    index = torch.cat(index)
    return Correspondence(torch.cat(soft), values[index], index, torch.cat(sure))


def confidence(q: Tensor, k: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """How sure every query token is of its match: ``confidence`` of :func:`correspond` alone.

    :param q: (N, H·d); ``k`` is (M, H·d); ``bias`` (M,) of the logits.
    :returns: (N,) in 0..1.
    """
    return torch.cat([_certainty(rows) for rows in _weights(q, k, heads, bias)])


def _certainty(rows: Tensor) -> Tensor:
    """(n, M) attention weights -> (n,): one minus their entropy, relative to the largest that M tokens can have."""
    even = torch.log(torch.tensor(float(rows.shape[1]))).clamp_min(1e-6)
    entropy = -(rows * rows.clamp_min(1e-12).log()).sum(-1)
    return (1 - entropy / even).clamp(0, 1)
