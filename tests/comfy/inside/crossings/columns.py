"""The pack's edits of a MODEL, as the table's columns: the node, and a reference that computes the same another way."""

import comfy.samplers
import pytest
import torch

from comfyui_exemplar.attention.layers import Layer
from comfyui_exemplar.hosts.comfy.lcad_instances import reuse_logits
from comfyui_exemplar.texts.crossings import TOGETHER, outcome

from ..pairs import encode
from ..sampling import run_guider
from . import naive
from .pair_reference import PairReference
from .reference import EverySecond, Reference, TwoPasses

#: The embedded model's two finest decoder resolutions, with the paper's (gamma, beta).
COARSE = {Layer("output", i): (1.0, 0.0) for i in (2, 3)}
FINE = {Layer("output", i): (0.5, 0.5) for i in (4, 5)}
SETTINGS = {"gamma_shallow": 0.5, "gamma_deep": 1.0, "beta_shallow": 0.5, "beta_deep": 0.0}
PHRASES = "red apple, blue car"


class Column:
    """An edit of a MODEL with everything around it.

    :ivar name: the node's display name, which messages begin with.
    """

    name = ""
    #: Whether one step depends on the one before it.
    carries = False

    def __init__(self, nodes, embedded, scene, inverted):
        self.nodes, self.embedded, self.scene, self.inverted = nodes, embedded, scene, inverted
        self.positive, self.negative = encode(embedded, PHRASES), embedded[3]
        noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
        self.latent, self.sigmas = {"samples": 30 * noise}, torch.tensor([6.0, 1.5, 0.0])
        self.more_sigmas = torch.tensor([6.0, 2.0, 0.7, 0.0])

    def levels(self, key, column):
        """Sigmas for a cell: one step where both go together; warnings are one a run, which needs two."""
        short = torch.cat([self.sigmas[:1], self.sigmas[-1:]])
        return self.sigmas if self.carries or outcome(key, column) != TOGETHER else short

    def guider(self, model, positive=None):
        """Guidance on a MODEL that has our node."""
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(positive or self.positive, self.negative)
        guider.set_cfg(3.0)
        return guider

    def found(self, model, positive=None, sigmas=None, **kw):
        """(B, C, h, w): sampled by Euler's method."""
        sigmas = self.sigmas if sigmas is None else sigmas
        return run_guider(self.guider(model, positive), self.latent, sigmas, **kw)

    def expected(self, model, sigmas=None, prepare=None, **kw):
        """(B, C, h, w): the reference's.

        :param prepare: called with the reference, to change it.
        """
        reference = self.reference(model, **kw)
        if prepare is not None:
            prepare(reference)
        return reference.sample(self.latent["samples"], self.sigmas if sigmas is None else sigmas)

    def made(self, model):
        """The MODEL with our node behind it."""
        raise NotImplementedError

    def reference(self, model, **kw):
        """The same of a MODEL without our node."""
        raise NotImplementedError

    def nothing(self, model):
        """The node at its neutral value."""
        raise NotImplementedError


class Injection(Column):
    name = "Dual-Attention Color Injection"

    def __init__(self, *args):
        super().__init__(*args)
        self.positive = self.negative = self.embedded[3]
        self.latent, self.more_sigmas = self.inverted["input"][1:3]
        self.sigmas = torch.cat([self.more_sigmas[:2], self.more_sigmas[-1:]])

    def made(self, model, **settings):
        names = ("input", "reference", "gray")
        sources = {f"{name}_inversion": self.inverted[name][0] for name in names}
        values = {"strength": 1.0, **SETTINGS, **settings}
        return self.nodes("ExemplarDualAttentionColor", model=model, **sources, **values)[0]

    def naive(self, layers=None, **kw):
        return naive.Dual({name: made[0] for name, made in self.inverted.items()}, layers or {**COARSE, **FINE}, **kw)

    def reference(self, model, layers=None, **kw):
        return Reference(model, self.positive, self.negative, self.naive(layers), **kw)

    def nothing(self, model):
        return self.made(model, strength=0.0)


class Tokens(Column):
    name = "Apply DEADiff"

    def __init__(self, *args):
        super().__init__(*args)
        (loaded,) = self.nodes("ExemplarLoadDEADiff", model_name="embedded")
        (self.tokens,) = self.nodes(
            "ExemplarDEADiffEncode", deadiff=loaded, image=self.scene[1], take="style & semantics"
        )

    def made(self, model, **settings):
        values = {"weight": 1.0, **settings}
        return self.nodes("ExemplarApplyDEADiff", model=model, tokens=self.tokens, **values)[0]

    def naive(self, **kw):
        from comfyui_exemplar.attention.image_tokens import route
        from comfyui_exemplar.hosts.comfy.model import attention_layers

        return naive.Tokens(self.tokens, route(attention_layers(self.embedded[0]), *self.tokens.split), **kw)

    def reference(self, model, **kw):
        return Reference(model, self.positive, self.negative, self.naive(), **kw)

    def nothing(self, model):
        return self.made(model, weight=0.0)


class Instances(Column):
    name = "L-CAD Instances"
    schedule = "one pass"

    def __init__(self, *args):
        super().__init__(*args)
        self.masks = torch.zeros(2, 64, 64)
        self.masks[0, :, :32] = self.masks[1, :, 32:] = 1
        self.phrases = naive.Phrases([((0, 1), self.masks[0]), ((2, 3), self.masks[1])])

    def made(self, model, **settings):
        values = {"schedule": self.schedule, "masks": self.masks, "prompt": PHRASES, **settings}
        return self.nodes("ExemplarLCADInstances", model=model, clip=self.embedded[1], **values)[0]

    def reference(self, model, **kw):
        return Reference(model, self.positive, self.negative, self.phrases, **kw)

    def nothing(self, model):
        return self.made(model, strength=0.0)


class InstancesOfficial(Instances):
    schedule = "official"

    def reference(self, model, **kw):
        return TwoPasses(model, self.positive, self.negative, phrases=self.phrases, **kw)


class StaleModel(Column):
    name = "Load L-CAD (official attention)"
    carries = True

    def made(self, model):
        return reuse_logits(model)

    def reference(self, model, **kw):
        return EverySecond(model, self.positive, self.negative, **kw)

    def nothing(self, model):
        return model


class Fusion(Column):
    """A guider of ours: the MODEL gets its neighbors before it."""

    name = "Concept Fusion"

    def __init__(self, nodes, embedded, scene, source):
        super().__init__(nodes, embedded, scene, None)
        self.inversion, self.latent, self.more_sigmas = source[:3]
        self.positive, self.negative = encode(embedded, "blue heart"), embedded[3]
        self.sigmas = self.more_sigmas[:3]

    def guider(self, model, positive=None):
        how = {"cfg": 4.0, "cross_ratio": 0.5, "self_ratio": 0.75, "vectors": 2, "concept_weight": 0.6}
        concept, empty = positive or self.positive, self.embedded[3]
        return self.nodes(
            "ExemplarConceptFusion", model=model, inversion=self.inversion, concept=concept, source=empty, **how
        )[0]

    def reference(self, model, **kw):
        control = self.guider(self.embedded[0]).fusion.control
        levels, way = torch.tensor(self.inversion.plan.levels), self.inversion.trajectory

        def stands(sigma):
            return way[int((levels - sigma).abs().argmin())]

        return PairReference(model, self.positive, self.negative, control, self.embedded[3], stands, cfg=4.0, **kw)


class Prompts(Fusion):
    name = "Prompt Control"

    def __init__(self, *args):
        super().__init__(*args)
        noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
        self.latent, self.more_sigmas = {"samples": 14.0 * noise}, torch.tensor([14.6, 4.0, 1.2, 0.0])
        self.sigmas = torch.tensor([14.6, 3.0, 0.0])

    def guider(self, model, positive=None):
        texts = {"source": "red heart", "target": "blue heart"}
        how = {"cfg": 4.0, "cross_ratio": 0.7, "self_ratio": 0.7}
        clip, empty = self.embedded[1:4:2]
        return self.nodes("ExemplarPromptControl", model=model, clip=clip, negative=empty, **texts, **how)[0]

    def reference(self, model, **kw):
        control = self.guider(self.embedded[0]).fusion.control
        source = encode(self.embedded, "red heart")
        return PairReference(model, self.positive, self.negative, control, source, cfg=4.0, **kw)


#: By the table's names of its columns: edits of a MODEL, and guiders.
COLUMNS = {
    "injection": Injection,
    "deadiff": Tokens,
    "instances": Instances,
    "instances_official": InstancesOfficial,
    "lcad": StaleModel,
}
GUIDERS = {"fusion": Fusion, "prompts": Prompts}


@pytest.fixture(scope="session")
def columns(nodes, embedded, scene, inverted, source):
    """Call it with a column's name -> the column."""
    made = {}

    def column(name):
        if name not in made:
            with torch.inference_mode():
                kind = {**COLUMNS, **GUIDERS}[name]
                made[name] = kind(nodes, embedded, scene, source if name in GUIDERS else inverted)
        return made[name]

    return column
