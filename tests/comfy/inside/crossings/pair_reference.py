"""Prompt-to-prompt pairs computed another way: the source's call by itself, then the target's with what it saw."""

import itertools

import comfy.model_management
import torch

from comfyui_exemplar.attention.control import SOURCE

from ....attention import naive as maps
from .naive import SELF, Kept, attention
from .reference import Reference


class Controlled:
    """A target under its source's maps at one step.

    :param features: (kind, layer) -> (q, k) of the source's rows.
    """

    def __init__(self, control, features, step, steps):
        self.control, self.features, self.at = control, features, (step, steps)

    def on(self, kind, layer, branch):
        if branch != 0 or (kind, layer) not in self.features:
            return None
        q_source, k_source = self.features[kind, layer]
        if kind == SELF:
            if not self.control.edits_self(*self.at, layer, q_source.shape[1]):
                return None
            return lambda q, k, v, options, below: below(q_source, k_source, v, options)
        if not self.control.edits_cross(*self.at):
            return None

        def replace(q, k, v, options, below):
            heads = options["n_heads"]
            source, target = (maps.logits(*pair, heads).softmax(-1) for pair in ((q_source, k_source), (q, k)))
            words = self.control.columns[1]  # what stands behind them are another edit's tokens
            map_ = torch.cat([self.control.edit_map(source, target[..., :words], *self.at), target[..., words:]], -1)
            out = maps.apply(map_, v, heads).to(q)
            return out if below is attention else below(q, k, v, options) + (out - attention(q, k, v, options))

        return replace


class PairReference(Reference):
    """A target beside a source.

    :param control: a ``PromptControl``.
    :param source: CONDITIONING of the source.
    :param way: sigma -> the source's latents, (B, C, h, w); None samples it, guided as the target is.
    """

    def __init__(self, model, positive, negative, control, source, way=None, **kw):
        super().__init__(model, positive, negative, **kw)
        self.control, self.source, self.way = control, source, way
        self.target_edit, self.shown, self.beside = None, None, None
        if way is None:
            self.beside = Reference(model, source, negative, cfg=self.cfg, guidance=self.guidance)

    def conditional(self, x, sigma, **kw):
        """The target's prediction, under control."""
        return self.predict(x, sigma, self.positive[0], 0, **{"edit": self.target_edit, **kw})

    def look(self, sigma):
        """The source's call at a level."""
        kept = Kept()
        self.predict(self.shown, sigma, self.source[0], SOURCE, edit=kept)
        step = self.levels.tolist().index(sigma)
        self.target_edit = Controlled(self.control, kept.features, step, len(self.levels) - 1)

    def denoise(self, x, sigma):
        if self.way is not None:
            self.shown = self.way(sigma).to(x)
        self.look(sigma)
        return super().denoise(x, sigma)

    def sample(self, latent, sigmas):
        if self.way is not None:
            return super().sample(latent, sigmas)
        comfy.model_management.load_models_gpu([self.model])
        self.levels = self.beside.levels = sigmas
        if self.unet_wrapper is not None:
            self.beside.unet_wrapper = lambda prompt: self.unet_wrapper(("beside", prompt))
        target = source = self.base.process_latent_in(latent)
        for here, there in itertools.pairwise(sigmas.tolist()):
            self.shown = source
            step = (there - here) / here
            target = target + (target - self.denoise(target, here)) * step
            source = source + (source - self.beside.denoise(source, here)) * step
        return self.base.process_latent_out(target)
