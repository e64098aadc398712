"""Content-concept fusion (VCT) and prompt-to-prompt control, as guiders."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..pipelines.prompt_control import PromptControlSettings
from ..pipelines.vct_pair import ConceptFusionSettings, Fusion, replay_of
from .common import CATEGORY_TRANSLATE, Inversion, Pivots
from .inputs import expect, optional_mask, text
from .widgets import later_widgets, resolved, title, widgets

if TYPE_CHECKING:
    from torch import Tensor

    from ..diffusion.inversion import Inversion as Inverted
    from ..diffusion.pivot import Pivots as Found


class ConceptFusion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarConceptFusion",
            display_name="Concept Fusion",
            category=CATEGORY_TRANSLATE,
            description="Draws an inverted picture again with a learned concept in it: the picture is denoised beside "
            "the concept's stream and lends it its attention (content-concept fusion of VCT).",
            search_aliases=[
                "vct",
                "concept transfer",
                "image translation",
                "guider",
            ],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The MODEL that made the inversion: Stable Diffusion 1.x, 2.x or SDXL."
                ),
                Inversion.Input(
                    "inversion",
                    tooltip="The picture to keep, inverted over the whole schedule (depth = steps) with the convention "
                    "consistent or diffusers. A batch is translated together (without pivots).",
                ),
                io.Conditioning.Input(
                    "concept",
                    tooltip="The learned concept alone, from Concept Inversion or as embedding:name through CLIP Text "
                    "Encode. Other prompts work too: give their number of words as vectors.",
                ),
                io.Conditioning.Input("source", tooltip="The prompt of the inversion, usually the empty one."),
                *widgets(ConceptFusionSettings, "cfg", "cross_ratio", "self_ratio", "vectors"),
                *widgets(ConceptFusionSettings, "concept_weight", advanced=False),
                *widgets(ConceptFusionSettings, "weight_place", "self_layers", "source_stream"),
                Pivots.Input(
                    "pivots",
                    optional=True,
                    tooltip="From Pivot Inversion: unconditional prompts that hold the picture under cfg. Without them "
                    "the source prompt is the negative one.",
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="Where the picture may change; outside it comes back as it was."
                ),
                *later_widgets(ConceptFusionSettings),
            ],
            outputs=[
                io.Guider.Output(
                    display_name="guider",
                    tooltip="For SamplerCustomAdvanced, with the noised latent and the sigmas of DDIM Inversion, and "
                    "no added noise.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        inversion: Inverted,
        concept: list,
        source: list,
        pivots: Found | None = None,
        mask: Tensor | None = None,
        **values: Any,
    ) -> io.NodeOutput:
        from ..hosts.comfy.conditioning import check_conditioning
        from ..hosts.comfy.families.found import require_network
        from ..hosts.comfy.fits import check_inversion, check_pivots
        from ..hosts.comfy.model import attention_layers, fingerprint
        from ..hosts.comfy.prompts import first_column, text_columns
        from ..hosts.comfy.recommended import recommended
        from ..hosts.comfy.vct_control import pair_guider

        expect(cls, model=model, inversion=inversion, pivots=pivots)
        require_network(model, title(cls))
        settings = resolved(cls, ConceptFusionSettings, recommended(model, "vct"), values)
        check_inversion(inversion, model, title(cls))
        if pivots is not None:
            check_pivots(pivots, model, title(cls))
        replay = replay_of(inversion, pivots, fingerprint(model), settings.cfg)
        for name, prompt in (("concept", concept), ("source", source)):
            levels, pictures = inversion.plan.kept_sigmas, inversion.pictures
            check_conditioning(prompt, title(cls), name, model=model, levels=levels, pictures=pictures)
        mask = optional_mask(cls, mask, "mask", inversion.pictures)
        columns = (text_columns(source, "source"), text_columns(concept, "concept"))
        control = settings.control(columns, settings.vectors, first_column(concept, source), attention_layers(model))
        if settings.source_stream == "sampled":
            replay = None
        fusion = Fusion(control, settings.cfg, replay, pivots, mask=mask)
        return io.NodeOutput(pair_guider(model, fusion, concept, source, source))


class PromptControlNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarPromptControl",
            display_name="Prompt Control",
            category=CATEGORY_TRANSLATE,
            description="Two prompts, one picture: the target prompt is drawn with the layout of the source prompt's "
            "picture (prompt-to-prompt). Give an inversion to edit a picture of your own.",
            search_aliases=["prompt to prompt", "p2p", "attention control", "word swap", "local blend", "guider"],
            inputs=[
                io.Model.Input("model", tooltip="Stable Diffusion 1.x, 2.x or SDXL."),
                io.Clip.Input(
                    "clip",
                    tooltip="The model's CLIP: it reads both texts and says which words they share. embedding:name in "
                    "the texts works.",
                ),
                io.String.Input(
                    "source",
                    default="",
                    multiline=True,
                    tooltip="What the first picture shows; of an inverted picture, the prompt that it was inverted "
                    "with.",
                ),
                io.String.Input("target", default="", multiline=True, tooltip="What the second one is to show."),
                io.Conditioning.Input("negative", tooltip="The negative prompt of both."),
                *widgets(
                    PromptControlSettings,
                    "cfg",
                    "cross_ratio",
                    "self_ratio",
                    "words",
                    "weights",
                    "word_ratios",
                    "blend_words",
                    "blend_threshold",
                    "self_layers",
                    "both_pictures",
                ),
                Inversion.Input(
                    "inversion",
                    optional=True,
                    tooltip="A picture to edit, inverted with the source prompt over the whole schedule. Sample its "
                    "noised latent without added noise.",
                ),
                Pivots.Input(
                    "pivots",
                    optional=True,
                    tooltip="From Pivot Inversion with the source prompt; they hold the picture under cfg and take the "
                    "negative prompt's place.",
                ),
                io.Mask.Input("mask", optional=True, tooltip="Where the picture may change; outside it is the source."),
                *later_widgets(PromptControlSettings),
            ],
            outputs=[io.Guider.Output(display_name="guider", tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        source: str,
        target: str,
        negative: list,
        inversion: Inverted | None = None,
        pivots: Found | None = None,
        mask: Tensor | None = None,
        **values: Any,
    ) -> io.NodeOutput:
        from ..hosts.comfy.conditioning import check_conditioning, checked_when_sampled
        from ..hosts.comfy.families.found import require_network
        from ..hosts.comfy.fits import check_inversion, check_pivots
        from ..hosts.comfy.model import fingerprint
        from ..hosts.comfy.vct_control import pair_guider, prompts_fusion

        expect(cls, model=model, clip=clip, inversion=inversion, pivots=pivots)
        require_network(model, title(cls))
        if pivots is not None and inversion is None:
            raise ValueError(
                f"{title(cls)}: inversion: found nothing beside pivots, expected the inverted picture that they belong "
                "to; connect it as well."
            )
        settings = resolved(cls, PromptControlSettings, {}, values)
        source, target = text(cls, source, "source"), text(cls, target, "target")
        pictures = 0 if inversion is None else inversion.pictures
        check_conditioning(negative, title(cls), "negative", model=model, pictures=pictures)
        model = checked_when_sampled(model, negative, title(cls), "negative")
        mask = optional_mask(cls, mask, "mask", pictures)
        fusion, positive, original = prompts_fusion(model, clip, source, target, settings)
        replay = None
        if inversion is not None:
            check_inversion(inversion, model, title(cls))
            if pivots is not None:
                check_pivots(pivots, model, title(cls))
            replay = replay_of(inversion, pivots, fingerprint(model), settings.cfg)
        fusion = dataclasses.replace(fusion, replay=replay, pivots=pivots, mask=mask)
        return io.NodeOutput(
            pair_guider(model, fusion, positive, negative, original, both=settings.both_pictures, name="Prompt Control")
        )


NODES = [ConceptFusion, PromptControlNode]
