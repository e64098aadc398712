"""CONDITIONING as ComfyUI's nodes make it, and what becomes of its parts in a prediction."""

import comfy.controlnet
import torch
import torch.nn.functional as F

import nodes as stock

LEFT = torch.zeros(1, 64, 64)
LEFT[..., :32] = 1


def halved(conditioning):
    """Another prompt of the same length."""
    return [[context * 0.5, dict(extras)] for context, extras in conditioning]


def masked(conditioning, mask, bounds="default"):
    return stock.ConditioningSetMask().append(conditioning, mask, bounds, 1.0)[0]


def ranged(conditioning, start, end):
    return stock.ConditioningSetTimestepRange().set_range(conditioning, start, end)[0]


def share_above(model, sigma):
    """The share of the sampling from which sigmas are below one, and the sigma there."""
    sampling = model.get_model_object("model_sampling")
    share = next(i / 1000 for i in range(1001) if sampling.percent_to_sigma(i / 1000) < sigma)
    return share, sampling.percent_to_sigma(share)


class Residuals(comfy.controlnet.ControlBase):
    """A ControlNet that adds one number to the middle block."""

    def get_control(self, x, *_, **__):
        shape = (x.shape[0], 256, x.shape[2] // 4, x.shape[3] // 4)
        return {"input": [], "middle": [torch.full(shape, 3.0)], "output": []}


def controlled(conditioning):
    return [[c, {**extras, "control": Residuals(), "control_apply_to_uncond": False}] for c, extras in conditioning]


def mixed(reference, parts):
    """A reference whose conditional prediction is the mean of several prompts', by their masks, where they act.

    Where one is for an area, ComfyUI asks for the negative prompt once more there.

    :param parts: (entry, mask or None, (first, last) sigma or None, and optionally (height, width) of an area).
    """

    def mean(parts, branch, x, sigma, **kw):
        total, weight = torch.zeros_like(x), torch.full_like(x, 1e-37)
        for entry, mask, acts, *area in parts:
            if acts is not None and not acts[1] <= sigma <= acts[0]:
                continue
            height, width = area[0] if area else x.shape[-2:]
            share = torch.ones(1) if mask is None else F.interpolate(mask[None], x.shape[-2:], mode="bilinear")
            part = reference.predict(x[..., :height, :width], sigma, entry, branch, **kw)
            total[..., :height, :width] += part * share
            weight[..., :height, :width] += share
        return total / weight

    def conditional(x, sigma, **kw):
        if hasattr(reference, "target_edit"):
            kw = {"edit": reference.target_edit, **kw}
        return mean(parts, 0, x, sigma, **kw)

    reference.conditional = conditional
    areas = [(reference.negative[0], None, None, area) for *_, area in (part for part in parts if len(part) > 3)]
    if areas:
        everywhere = (reference.negative[0], None, None)
        reference.unconditional = lambda x, sigma, **kw: mean([everywhere, *areas], 1, x, sigma, **kw)
