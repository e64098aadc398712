"""A run of every edit on the pretended device."""

import comfy.samplers
import torch

from ....fixtures.pretended_gpu import to_gpu
from ..crossings.columns import PHRASES
from ..models import prompt
from ..pairs import encode
from ..sampling import invert, run_guider
from .laps import Laps, noise

SIGMAS = torch.tensor([14.6, 6.0, 2.5, 1.0, 0.0])
ROLES = ("input", "reference", "gray")
EVERYWHERE = {"gamma_deep": 0.5, "beta_deep": 0.3, "strength": 0.5}


class Bench:
    """A run of every edit: each method that tests name samples once, and gives the laps of that run."""

    def __init__(self, gpu, nodes, embedded, scene, source, column):
        self.gpu, self.nodes, self.embedded, self.scene = gpu, nodes, embedded, scene
        self.source, self.column = source, column
        self.mask = torch.zeros(1, 64, 64)
        self.mask[:, :, 20:50] = 1

    def sampled(self, guider, latent, sigmas=SIGMAS, warm=1):
        with Laps(self.gpu, guider.model_patcher, warm) as laps:
            run_guider(guider, latent, sigmas)
        return laps

    def edited(self, column, made, warm=1):
        return self.sampled(column.guider(made), column.latent, warm=warm)

    def injected(self, **settings):
        column = self.column("injection")
        guider = column.guider(column.made(self.embedded[0], **settings))
        return self.sampled(guider, column.latent, column.more_sigmas)

    def injection(self):
        return self.injected()

    def injection_from_there(self):
        """The levels are on the device already, as KSampler hands them over."""
        column = self.column("injection")
        return self.sampled(column.guider(column.made(self.embedded[0])), column.latent, to_gpu(column.more_sigmas))

    def injection_in_masks(self):
        return self.injected(input_mask=self.mask, reference_mask=self.mask, **EVERYWHERE)

    def injection_of_two(self):
        """Two inputs and two references, whose masks leave different numbers of tokens."""
        model, _, vae, empty = self.embedded
        made = {}
        for role, image in zip(ROLES, (self.scene[0], self.scene[1], self.scene[0]), strict=True):
            samples = vae.encode(torch.cat([image, image.flip(1)]))
            made[role] = invert(self.nodes, model, empty, samples, depth=4, measure_round_trip=False)
        masks = torch.cat([self.mask, 1 - self.mask])
        guider = self.guider(model, made, input_mask=masks, reference_mask=masks, **EVERYWHERE)
        return self.sampled(guider, *made["input"][1:3])

    def family(self, model, name):
        """Injection into a tiny MODEL of a family."""
        samples = noise(1, 4, 16, 16)["samples"]
        inversion = invert(self.nodes, model, prompt(name), samples, depth=4, measure_round_trip=False)
        guider = self.guider(model, dict.fromkeys(ROLES, inversion), prompt(name), gamma_shallow=0.5, beta_shallow=0.5)
        return self.sampled(guider, *inversion[1:3])

    def guider(self, model, made, positive=None, **settings):
        inversions = {f"{role}_inversion": made[role][0] for role in ROLES}
        guider = comfy.samplers.CFGGuider(
            self.nodes("ExemplarDualAttentionColor", model=model, **inversions, **settings)[0]
        )
        guider.set_conds(*[positive or self.embedded[3]] * 2)
        guider.set_cfg(3.0)
        return guider

    def guidance(self):
        column = self.column("injection")
        (guider,) = self.nodes(
            "ExemplarColorGuidance",
            model=column.made(self.embedded[0]),
            conditioning=self.embedded[3],
            guidance=3.0,
            step_limit=True,
        )
        return self.sampled(guider, column.latent, column.more_sigmas)

    def capture(self, model=None, conditioning=None):
        """The inversion of a picture that keeps everything."""
        with Laps(self.gpu, model or self.embedded[0]) as laps:
            invert(
                self.nodes,
                model or self.embedded[0],
                conditioning or self.embedded[3],
                noise(1, 4, 16, 16)["samples"],
                depth=5,
                measure_round_trip=False,
            )
        return laps

    def deadiff(self):
        column = self.column("deadiff")
        return self.edited(column, column.made(self.embedded[0]))

    def deadiff_in_mask(self):
        column = self.column("deadiff")
        return self.edited(column, column.made(self.embedded[0], weight=0.6, timesteps="fractional", mask=self.mask))

    def instances(self, warm=1, **settings):
        column = self.column("instances")
        return self.edited(column, column.made(self.embedded[0], **settings), warm)

    def instances_normalized(self):
        return self.instances()

    def instances_step(self):
        return self.instances(step="official", strength=1000.0)

    def instances_two_passes(self):
        return self.instances(2, schedule="official")

    def lcad_attention(self):
        column = self.column("lcad")
        return self.edited(column, column.made(self.embedded[0]))

    def lcad_condition(self):
        model, clip, lcad_vae = self.nodes("ExemplarLoadLCAD", model_name="embedded")
        texts = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("red apple", "")]
        *conditions, latent = self.nodes(
            "ExemplarLCADCondition",
            positive=texts[0],
            negative=texts[1],
            image=self.scene[0],
            lcad_vae=lcad_vae,
            resolution=64,
            variations=1,
        )
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(*conditions)
        guider.set_cfg(3.0)
        return self.sampled(guider, noise(*latent["samples"].shape, scale=14.0))

    def fused(self, **how):
        values = {"cross_ratio": 1.0, "self_ratio": 1.0, "vectors": 2, "concept_weight": 0.6, "cfg": 4.0, **how}
        (guider,) = self.nodes(
            "ExemplarConceptFusion",
            model=self.embedded[0],
            inversion=self.source[0],
            concept=encode(self.embedded, "blue heart"),
            source=self.embedded[3],
            **values,
        )
        return self.sampled(guider, *self.source[1:3])

    def fusion(self):
        return self.fused()

    def fusion_in_mask(self):
        return self.fused(mask=self.mask)

    def fusion_sampled(self):
        return self.fused(source_stream="sampled")

    def fusion_pivots(self):
        pivots, *_ = self.nodes(
            "ExemplarPivotInversion",
            model=self.embedded[0],
            inversion=self.source[0],
            conditioning=self.embedded[3],
            cfg=4.0,
            iterations=1,
        )
        return self.fused(pivots=pivots)

    def prompted(self, **how):
        model, clip, _, empty = self.embedded
        values = {"source": "red heart", "target": "blue heart", "cross_ratio": 1.0, "self_ratio": 1.0, **how}
        (guider,) = self.nodes("ExemplarPromptControl", model=model, clip=clip, negative=empty, cfg=4.0, **values)
        return self.sampled(guider, noise(1, 4, 16, 16, scale=14.0))

    def prompts(self):
        return self.prompted()

    def prompts_words(self):
        return self.prompted(weights="blue=2", word_ratios="heart=0.4", blend_words="heart", words="replace")

    def luminance(self):
        model, _, vae, empty = self.embedded
        _, pulled = self.nodes("ExemplarLatentLuminance", vae=vae, image=self.scene[0], model=model, strength=1.0)
        guider = comfy.samplers.CFGGuider(pulled)
        guider.set_conds(empty, empty)
        return self.sampled(guider, noise(1, 4, 16, 16, scale=14.0))

    def published_sampler(self):
        """No edit at all: the sampling loop is ours."""
        model, empty = self.embedded[0], self.embedded[3]
        sampler, sigmas = self.nodes("ExemplarPublishedSampler", model=model, sampler_name="ddim", steps=5)
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(encode(self.embedded, PHRASES), empty)
        latent = noise(1, 4, 16, 16)["samples"]
        with Laps(self.gpu, model) as laps:
            guider.sample(latent, torch.zeros_like(latent), sampler, sigmas, disable_pbar=True, seed=0)
        return laps
