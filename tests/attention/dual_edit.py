"""The dual-attention edit on small banks, and its formula spelled out row by row with full maps."""

import torch

from comfyui_exemplar.attention.call import AttentionCall
from comfyui_exemplar.attention.dual import DualAttentionColor
from comfyui_exemplar.attention.dual_banks import DualBanks
from comfyui_exemplar.attention.dual_settings import DualAttentionSettings
from comfyui_exemplar.attention.layers import Layer

from . import naive

DEEP = Layer("output", 0)


LAYERS = {naive.LAYER: True, DEEP: False}


HEADS = {layer: naive.HEADS for layer in LAYERS}


#: Every term takes part.
FULL = DualAttentionSettings(gamma_shallow=0.4, gamma_deep=0.4, beta_shallow=0.3, beta_deep=0.3)


FIXED = DualAttentionSettings(gamma_shallow=1.0, beta_shallow=0.0, gamma_deep=1.0, beta_deep=0.0)


TOKENS, KEYS = 6, 8  # the reference has another size than the input


def banks(inputs=1, references=1, sigmas=(1.0,), grid=(2, 4), letters="qkv"):
    """input, reference, gray reference."""
    return (
        naive.bank(inputs, TOKENS, sigmas, LAYERS, letters, (2, 3), seed=100),
        naive.bank(references, KEYS, sigmas, LAYERS, letters, grid, seed=400),
        naive.bank(references, KEYS, sigmas, LAYERS, letters, grid, seed=700),
    )


def make(settings, three, *masks, precomputed=False, **kwargs):
    """The edit on input, reference and gray reference."""
    edit = DualAttentionColor(settings, LAYERS, DualBanks(*three), *masks, **kwargs)
    if precomputed:
        edit.precompute(HEADS)
    return edit


def call(layer=naive.LAYER, **kwargs):
    return naive.call(layer=layer, tokens=TOKENS, grid=(2, 3), **kwargs)


def edited(edit, asked):
    return edit(asked, AttentionCall.plain)


def formula(settings, three, asked, row, sigma=1.0, key_tokens=None):
    """The module's two equations for one conditional row, in float64: (N, H·d)."""
    gamma, beta = settings.weights(LAYERS[asked.layer])

    def kept(which, letter):
        bank = three[which]
        tensor = bank.get(sigma, asked.layer, letter)
        return tensor[asked.pictures[row] % len(tensor)][None]

    def keys(which, letter):
        tensor = kept(which, letter)
        return tensor if key_tokens is None else tensor[:, key_tokens]

    gray = naive.logits(kept(0, "q"), keys(2, "k"))
    color = naive.logits(asked.q[row : row + 1], keys(1, "k"))
    if settings.mix == "before softmax":
        weights = (gamma * gray + (1 - gamma) * color).softmax(-1)
    else:
        weights = gamma * gray.softmax(-1) + (1 - gamma) * color.softmax(-1)
    out = naive.apply(weights, keys(1, "v"))
    own = naive.attention(kept(0, "q"), kept(0, "k"), asked.v[row : row + 1])
    return ((1 - beta) * out + beta * own)[0]


def check(found, expected):
    torch.testing.assert_close(found.double(), expected.double(), atol=2e-6, rtol=0)
