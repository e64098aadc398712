"""What sampling should give, computed another way: one call of the model for each prompt, edits by their formulas.

Nothing of the pack's machinery takes part. The neighbor's patches are those that its node put into the MODEL; how its
guidance puts predictions together is computed from separate predictions.
"""

import itertools

import comfy.model_management
import comfy.patcher_extension
import torch

from comfyui_exemplar.diffusion.sampling import invert_ddim
from comfyui_exemplar.hosts.comfy.model import attention_layers

from .naive import CROSS, SELF, Kept, Plain, Reused, attention

_WRAPPER = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL


class Reference:
    """Euler's method over predictions that are made one prompt at a time.

    :param model: a MODEL with the neighbor and nothing of ours.
    :param positive: CONDITIONING with one entry; ``negative`` likewise.
    :param edit: one of ``naive``.
    :param guidance: (reference, cond, uncond, x, sigma) -> clean estimate; None is what the MODEL's functions make.

    What is changed after it is made: ``unet_wrapper`` is around every call of the UNet, ``untouched`` are (kind, layer)
    where the edit is left out, ``beneath`` is another edit, below this one.
    """

    def __init__(self, model, positive, negative, edit=None, cfg=3.0, guidance=None):
        self.model, self.base = model, model.model
        self.positive, self.negative, self.cfg = positive, negative, cfg
        self.edit = edit or Plain()
        self.guidance = guidance or functions
        self.layers = [info.layer for info in attention_layers(model)]
        self.unet_wrapper, self.untouched, self.beneath = None, frozenset(), Plain()
        self.levels = torch.zeros(2)

    def predict(self, x, sigma, prompt, branch, under=(), edit=None, control=None):
        """The clean estimate of one prompt, (B, C, h, w).

        :param under: functions of the options, applied before the edit is laid over them.
        """
        options = dict(self.model.model_options.get("transformer_options", {}))
        options["patches"] = {name: list(patches) for name, patches in options.get("patches", {}).items()}
        tables = {name: dict(table) for name, table in options.get("patches_replace", {}).items()}
        sigmas = torch.full((len(x),), float(sigma))
        options |= {
            "patches_replace": tables,
            "cond_or_uncond": [max(branch, 0)],
            "sigmas": sigmas,
            "sample_sigmas": self.levels,
            "uuids": [id(prompt)],
            "wrappers": {} if self.unet_wrapper is None else {_WRAPPER: {"reference": [self.unet_wrapper(id(prompt))]}},
        }
        for change in under:
            change(options)
        lay(tables, self.beneath, self.layers, branch)
        lay(tables, edit or self.edit, self.layers, branch, self.untouched)
        context = prompt[0].expand(len(x), -1, -1)
        if control is not None:
            control = control.get_control(x, sigmas, {"c_crossattn": context}, 1, options)
        return self.base.apply_model(x, sigmas, c_crossattn=context, control=control, transformer_options=options)

    def conditional(self, x, sigma, **kw):
        return self.predict(x, sigma, self.positive[0], 0, **kw)

    def unconditional(self, x, sigma, **kw):
        return self.predict(x, sigma, self.negative[0], 1, **kw)

    def asks_both(self):
        return self.cfg != 1 or self.model.model_options.get("disable_cfg1_optimization", False)

    def denoise(self, x, sigma):
        """The guided clean estimate at a level."""
        uncond = self.unconditional(x, sigma) if self.asks_both() else torch.zeros_like(x)
        return self.guidance(self, self.conditional(x, sigma), uncond, x, sigma)

    def sample(self, latent, sigmas):
        """Euler's method from a LATENT's samples to a LATENT's samples."""
        comfy.model_management.load_models_gpu([self.model])
        self.levels = sigmas
        x = self.base.process_latent_in(latent)
        for here, there in itertools.pairwise(sigmas.tolist()):
            x = x + (x - self.denoise(x, here)) / here * (there - here)
        return self.base.process_latent_out(x)

    def invert(self, latent, plan):
        """The trajectory of a DDIM inversion, (K+1, B, C, h, w)."""
        comfy.model_management.load_models_gpu([self.model])
        visited = []
        invert_ddim(
            lambda x, sigma: self.denoise(x, float(sigma[0])),
            plan.from_clean(self.base.process_latent_in(latent)),
            torch.tensor(plan.levels),
            disable=True,
            reads=plan.reads,
            visit=visited.append,
        )
        return torch.stack(visited)


def lay(tables, edit, layers, branch, untouched=frozenset()):
    """An edit on top of what is in a call's tables of replacements.

    :param untouched: (kind, layer) where it is left out.
    """
    for kind in (SELF, CROSS):
        table = tables.setdefault(kind, {})
        for layer in layers:
            replace = None if (kind, layer) in untouched else edit.on(kind, layer, branch)
            if replace is None:
                continue
            at = (layer.block, layer.index, layer.depth)
            table[at] = _placed(replace, table.get(at, table.get(at[:2])))


def _placed(replace, before):
    def placed(q, k, v, options):
        return replace(q, k, v, options, attention if before is None else before)

    return placed


def functions(reference, cond, uncond, x, sigma):
    """What a MODEL's guidance functions make of separate predictions, in ComfyUI's order."""
    options, cfg = reference.model.model_options, reference.cfg
    sigmas = torch.full((len(x),), float(sigma))
    both = reference.asks_both()
    conds = [reference.positive, reference.negative if both else None]
    told = {"timestep": sigmas, "sigma": sigmas, "input": x, "cond_scale": cfg, "model": reference.base}
    told["model_options"] = options
    outs = [cond, uncond]
    for function in options.get("sampler_pre_cfg_function", []):
        outs = function({**told, "conds": conds, "conds_out": outs})
    cond, uncond = outs[:2]
    known = {**told, "cond_denoised": cond, "uncond_denoised": uncond}
    if "sampler_cfg_function" in options:
        result = x - options["sampler_cfg_function"]({**known, "cond": x - cond, "uncond": x - uncond})
    else:
        result = uncond + (cond - uncond) * cfg
    for function in options.get("sampler_post_cfg_function", []):
        result = function({**known, "denoised": result, "cond": conds[0], "uncond": conds[1]})
    return result


class TwoPasses(Reference):
    """L-CAD's published schedule: the conditional prediction is made twice, with the first pass's logits.

    :param phrases: ``Phrases``; what else acts is ``edit``.
    """

    def __init__(self, *args, phrases, **kw):
        super().__init__(*args, **kw)
        self.phrases = phrases

    def predict(self, x, sigma, prompt, branch, **kw):
        if branch != 0:
            return super().predict(x, sigma, prompt, branch, **kw)
        first = Kept()
        super().predict(x, sigma, prompt, branch, **{**kw, "edit": first})
        return super().predict(x, sigma, prompt, branch, **{**kw, "edit": Reused(first.features, self.phrases)})


class EverySecond(Reference):
    """L-CAD's published plain sampling: every second prediction has the logits of the one before it."""

    def __init__(self, *args, **kw):
        super().__init__(*args, **kw)
        self.kept, self.asked = {}, {}

    def denoise(self, x, sigma):
        self.asked = {}
        return super().denoise(x, sigma)

    def predict(self, x, sigma, prompt, branch, **kw):
        before = self.asked.setdefault(branch, {})
        if branch >= 0 and id(prompt) not in before:
            at = (branch, len(before))
            if at in self.kept:
                before[id(prompt)] = Reused(self.kept.pop(at).features)
            else:
                self.kept[at] = kept = Kept()
                before[id(prompt)] = None
                return super().predict(x, sigma, prompt, branch, **{**kw, "edit": kept})
        # what guidance asks once more has the same logits
        return super().predict(x, sigma, prompt, branch, **{**kw, "edit": before.get(id(prompt))})
