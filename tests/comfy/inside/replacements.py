"""Replacements of cross-attention as other packs might write them, to compare with and to stand beside."""

import torch
from comfy.ldm.modules.attention import optimized_attention


class Naive:
    """DEADiff by the formula, as another pack might write it: one replacement a layer, everything computed every
    step."""

    def __init__(self, tokens, routing, weight=1.0):
        self.tokens, self.routing, self.weight = tokens, routing, weight

    def install(self, model):
        patched = model.clone()
        for layer, kind in self.routing.items():
            patched.set_model_attn2_replace(self.replacement(layer, kind), layer.block, layer.index)
        return patched

    def replacement(self, layer, kind):
        w_k, w_v = self.tokens.projections[layer]

        def replace(q, k, v, options):
            each = len(q) // len(options["cond_or_uncond"])
            rows = []
            for entry in options["cond_or_uncond"]:
                given = self.tokens.tokens.get(kind)
                shape = next(iter(self.tokens.tokens.values())).shape
                rows.append((torch.zeros(1, *shape[1:]) if entry or given is None else given).expand(each, -1, -1))
            image = torch.cat(rows)
            k = torch.cat([k, self.weight * image @ w_k.T], 1)
            v = torch.cat([v, self.weight * image @ w_v.T], 1)
            return optimized_attention(q, k, v, options["n_heads"])

        return replace


class IPAdapterStyle:
    """What IP-Adapter packs put on a layer: an object that adds an attention of its own to what is there, or to another
    of its kind by ``add``; it knows nobody else's."""

    def __init__(self, seed):
        self.seeds = [seed]

    def add(self, seed):
        self.seeds.append(seed)

    def __call__(self, q, k, v, options):
        out = optimized_attention(q, k, v, options["n_heads"])
        for seed in self.seeds:
            image = torch.randn(1, 4, q.shape[-1], generator=torch.Generator().manual_seed(seed)).expand(len(q), -1, -1)
            out = out + 0.5 * optimized_attention(q, image, image, options["n_heads"])
        return out

    @classmethod
    def install(cls, model, seed):
        patched = model.clone()
        at = [("input", 4), ("middle", 0), ("output", 3), ("output", 9)]
        present = patched.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})
        for place in at:
            if place in present:
                present[place].add(seed)
            else:
                patched.set_model_attn2_replace(cls(seed), *place)
        return patched
