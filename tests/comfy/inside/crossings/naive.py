"""The pack's edits by their formulas, as ComfyUI replacements of a layer in a call of one prompt.

Each has ``on(kind, layer, branch)``: what it does on a layer in a call of one branch, None for nothing, else
``replace(q, k, v, options, below)``, where ``below`` is whatever stood there before.
"""

import torch
from comfy.ldm.modules.attention import optimized_attention

from ....attention import naive as maps

SELF, CROSS = "attn1", "attn2"


def attention(q, k, v, options):
    """What ComfyUI does on a layer that nobody replaced."""
    return optimized_attention(q, k, v, options["n_heads"])


class Plain:
    """No edit."""

    def on(self, kind, layer, branch):
        return None


class Dual:
    """Dual attention (Kosugi 2025): the two equations, maps spelled out in float64.

    :param inversions: of input, reference and gray reference.
    :param layers: layer -> (gamma, beta).
    :param mask: (N by grid) function of a grid: how much of the edit each token gets; None for all.
    """

    def __init__(self, inversions, layers, mask=None, pictures=None):
        self.inversions, self.layers, self.mask, self.pictures = inversions, layers, mask, pictures

    def on(self, kind, layer, branch):
        if kind != SELF or branch != 0 or layer not in self.layers:
            return None

        def replace(q, k, v, options, below):
            heads, sigma = options["n_heads"], float(options["sigmas"][0])
            gamma, beta = self.layers[layer]

            def kept(role, letter):
                bank = self.inversions[role].bank
                tensor = bank.get(bank.nearest(sigma), layer, letter)
                rows = self.pictures if self.pictures is not None else range(len(q))
                return torch.cat([tensor[i % len(tensor)][None] for i in rows])

            gray = maps.logits(kept("input", "q"), kept("gray", "k"), heads)
            color = maps.logits(q, kept("reference", "k"), heads)
            out = maps.apply((gamma * gray + (1 - gamma) * color).softmax(-1), kept("reference", "v"), heads)
            if beta:
                out = (1 - beta) * out + beta * maps.attention(kept("input", "q"), kept("input", "k"), v, heads)
            out = out.to(q)
            if self.mask is None:
                return out
            return torch.lerp(below(q, k, v, options), out, self.mask(options["activations_shape"][-2:]))

        return replace


class Tokens:
    """DEADiff: a picture's tokens beside the prompt's, as many zeros in rows that are not conditional.

    :param routing: layer -> the kind of tokens it listens to.
    :param nobody: no row is conditional.
    """

    def __init__(self, tokens, routing, nobody=False):
        self.tokens, self.routing, self.nobody = tokens, routing, nobody

    def on(self, kind, layer, branch):
        if kind != CROSS or layer not in self.routing:
            return None
        w_k, w_v = self.tokens.projections[layer]
        image = self.tokens.tokens.get(self.routing[layer])
        if image is None or branch != 0 or self.nobody:
            image = torch.zeros_like(next(iter(self.tokens.tokens.values())))

        def replace(q, k, v, options, below):
            more = image.expand(len(q), -1, -1)
            return below(q, torch.cat([k, more @ w_k.T], 1), torch.cat([v, more @ w_v.T], 1), options)

        return replace


class Phrases:
    """L-CAD's instances: logits of a phrase's tokens go up inside its mask and down outside.

    :param phrases: [(tokens, mask (H, W))], in every layer.
    """

    def __init__(self, phrases):
        self.phrases = phrases

    def on(self, kind, layer, branch):
        if kind != CROSS or branch != 0:
            return None

        def replace(q, k, v, options, below):
            out = self.drawn(q, k, v, options)
            return out if below is attention else below(q, k, v, options) + (out - attention(q, k, v, options))

        return replace

    def drawn(self, q, k, v, options):
        logits = maps.logits(q, k, options["n_heads"])
        for tokens, mask in self.phrases:
            share = torch.nn.functional.adaptive_avg_pool2d(mask[None, None], options["activations_shape"][-2:])
            share = (share / share.max()).flatten()
            logits[..., list(tokens)] += 4.0 * (2 * share - 1)[:, None]
        return maps.apply(logits.softmax(-1), v, options["n_heads"]).to(q)


class Kept:
    """A first pass that keeps every layer's queries and keys."""

    def __init__(self):
        self.features = {}

    def on(self, kind, layer, branch):
        def replace(q, k, v, options, below):
            self.features[kind, layer] = (q.clone(), k.clone())
            return below(q, k, v, options)

        return replace


class Reused:
    """A second pass: a first one's queries and keys, and fresh values.

    :param change: a ``Phrases`` for the cross-attentions, or None.
    """

    def __init__(self, features, change=None):
        self.features, self.change = features, change

    def on(self, kind, layer, branch):
        if (kind, layer) not in self.features:
            return None
        q_kept, k_kept = self.features[kind, layer]

        def replace(q, k, v, options, below):
            if self.change is not None and kind == CROSS:
                own = self.change.drawn(q_kept, k_kept, v, options)
            else:
                own = attention(q_kept, k_kept, v, options)
            return own if below is attention else below(q, k, v, options) + (own - attention(q, k, v, options))

        return replace


class Recorded:
    """Keeps what an inversion should: of the first conditional call at every level."""

    def __init__(self, layers):
        self.layers, self.kept = layers, {}

    def on(self, kind, layer, branch):
        if kind != SELF or branch != 0 or layer not in self.layers:
            return None

        def replace(q, k, v, options, below):
            self.kept.setdefault((float(options["sigmas"][0]), layer), (q.clone(), k.clone(), v.clone()))
            return below(q, k, v, options)

        return replace
