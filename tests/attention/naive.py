"""Attention with every map spelled out in float64, and small calls and banks to run edits on."""

import torch

from comfyui_exemplar.attention.bank import FeatureBank
from comfyui_exemplar.attention.call import AttentionCall, batch_layout
from comfyui_exemplar.attention.fused import sdpa
from comfyui_exemplar.attention.layers import Layer

LAYER = Layer("output", 1)
HEADS = 2
WIDTH = 8  # of all heads together


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_head(tensor, heads=HEADS):
    """(B, N, H·d) -> (B, H, N, d), float64."""
    return tensor.double().unflatten(-1, (heads, -1)).transpose(1, 2)


def logits(q, k, heads=HEADS):
    q, k = by_head(q, heads), by_head(k, heads)
    return q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5


def apply(weights, v, heads=HEADS):
    """(B, H, N, M) weights on (B, M, H·d) values -> (B, N, H·d), float64."""
    return (weights @ by_head(v, heads)).transpose(1, 2).flatten(2)


def attention(q, k, v, heads=HEADS):
    return apply(logits(q, k, heads).softmax(-1), v, heads)


def call(*, branches=(0,), batch=1, tokens=6, grid=None, sigma=1.0, seed=0, layer=LAYER, width=WIDTH, heads=HEADS):
    """A self-attention call of random tokens; ``branches`` as ComfyUI's ``cond_or_uncond``."""
    rows = batch * len(branches)
    q, k, v = (rand(rows, tokens, width, seed=seed + i) for i in range(3))
    row_branches, pictures = batch_layout(branches, rows)
    grid = grid or (1, tokens)
    return AttentionCall(layer, sigma, q, k, v, heads, row_branches, pictures, tuple(range(rows)), grid, sdpa)


def memory(kept):
    """Bytes that dictionaries, tuples and lists of tensors keep alive."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors(kept)}
    return sum(storages.values())


def tensors(kept):
    if isinstance(kept, torch.Tensor):
        return [kept]
    parts = kept.values() if isinstance(kept, dict) else kept if isinstance(kept, (tuple, list)) else ()
    return [tensor for part in parts for tensor in tensors(part)]


def bank(pictures=1, tokens=6, sigmas=(1.0,), layers=(LAYER,), letters="qkv", grid=None, seed=100, width=WIDTH):
    """A filled bank of random features."""
    filled = FeatureBank()
    for i, sigma in enumerate(sigmas):
        for j, layer in enumerate(layers):
            kept = {a: rand(pictures, tokens, width, seed=seed + 100 * i + 10 * j + "qkv".index(a)) for a in letters}
            filled.put(sigma, layer, grid or (1, tokens), **kept)
    return filled
