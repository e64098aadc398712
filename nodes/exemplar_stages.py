"""Dual-attention color injection, colorization guidance, and the statistics match before sampling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..attention.dual_settings import DualAttentionSettings
from ..attention.families import EVERY
from ..diffusion.sampling import GuidanceSettings
from ..pipelines.color import StatisticsMatchSettings, match_latents
from ..pipelines.exemplar_settings import PooledReferencesSettings, ReferencesSettings
from .common import CATEGORY_STAGES, Inversion, clip_input, conditioning_input
from .inputs import expect, latent_samples, optional_mask
from .references import pair_of, several_of, statistics_mask, statistics_mask_input
from .widgets import later_widgets, resolved, title, widgets

if TYPE_CHECKING:
    from torch import Tensor

    from ..diffusion.inversion import Inversion as KeptInversion


class DualAttentionColorInjection(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarDualAttentionColor",
            display_name="Dual-Attention Color Injection",
            category=CATEGORY_STAGES,
            description="Lets the gray picture look into the reference and take its colors (Kosugi 2025). Acts on the "
            "positive prediction only, so cfg becomes colorization guidance.",
            search_aliases=["colorize", "reference attention", "color injection", "exemplar colorization", "kosugi"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The MODEL to sample with. It must be the one that made the inversions; a LoRA may be "
                    "added.",
                ),
                Inversion.Input("input_inversion", tooltip="The gray picture's inversion, with kept q and k."),
                Inversion.Input("reference_inversion", tooltip="The color reference's inversion, with kept k and v."),
                Inversion.Input(
                    "gray_inversion",
                    tooltip="The desaturated reference's inversion, with kept k. Same size as the reference.",
                ),
                *widgets(
                    DualAttentionSettings,
                    "strength",
                    "gamma_shallow",
                    "gamma_deep",
                    "beta_shallow",
                    "beta_deep",
                    "mix",
                    "layers",
                    "start",
                    "end",
                ),
                io.Mask.Input(
                    "input_mask",
                    optional=True,
                    tooltip="Where in the input color may go; white is everywhere. One for all inputs, or one for "
                    "each. Chain two of these nodes with masks to color two regions from two references.",
                ),
                io.Mask.Input(
                    "reference_mask",
                    optional=True,
                    tooltip="Which part of the reference may give color (what is above one half). One for all "
                    "references, or one for each.",
                ),
                Inversion.Input(
                    "reference_inversion_2",
                    optional=True,
                    tooltip="References of another size, beside the first ones; for all for every image. Masks and "
                    "weights go on with them.",
                ),
                Inversion.Input(
                    "gray_inversion_2",
                    optional=True,
                    tooltip="The same without color. Connect both or neither.",
                ),
                *later_widgets(DualAttentionSettings, ReferencesSettings),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="A copy of the model with the injection; sample it from the noised input. The input model "
                    "is not changed.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        input_inversion: KeptInversion,
        reference_inversion: KeptInversion,
        gray_inversion: KeptInversion,
        input_mask: Tensor | None = None,
        reference_mask: Tensor | None = None,
        reference_inversion_2: KeptInversion | None = None,
        gray_inversion_2: KeptInversion | None = None,
        **values: Any,
    ) -> io.NodeOutput:
        from ..hosts.comfy.exemplar import Several, with_color_injection
        from ..hosts.comfy.families.found import require_network
        from ..hosts.comfy.fits import check_inversion
        from ..hosts.comfy.recommended import recommended

        inversions = {
            "input_inversion": input_inversion,
            "reference_inversion": reference_inversion,
            "gray_inversion": gray_inversion,
            "reference_inversion_2": reference_inversion_2,
            "gray_inversion_2": gray_inversion_2,
        }
        expect(cls, model=model, **inversions)
        require_network(model, title(cls), EVERY)
        for name, inversion in inversions.items():
            if inversion is not None:
                check_inversion(inversion, model, title(cls), name)
        weights, others = several_of(cls, values), pair_of(reference_inversion_2, gray_inversion_2, "_2")
        if weights is None and others is not None:
            raise ValueError(
                "reference_inversion_2: found one, expected none with references on one per image; set references to "
                "all for every image."
            )
        references = reference_inversion.pictures + (0 if others is None else others.pictures)
        settings = resolved(cls, DualAttentionSettings, recommended(model, "exemplar"), values)
        return io.NodeOutput(
            with_color_injection(
                model,
                input_inversion,
                reference_inversion,
                gray_inversion,
                settings,
                source_mask=optional_mask(cls, input_mask, "input_mask", input_inversion.pictures),
                reference_mask=optional_mask(cls, reference_mask, "reference_mask", references),
                several=None if weights is None else Several(weights, others),
            )
        )


class ColorGuidance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarColorGuidance",
            display_name="Colorization Guidance",
            category=CATEGORY_STAGES,
            description="Classifier-free colorization guidance (Kosugi 2025): amplifies the difference that color "
            "injection makes. The same as KSampler (Advanced) without added noise, cfg = w and one prompt on both "
            "sides.",
            search_aliases=["color guidance", "classifier-free colorization guidance", "guider", "cfg"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL from Dual-Attention Color Injection."),
                conditioning_input("The prompt used for the inversions, usually empty."),
                *widgets(GuidanceSettings, "guidance"),
                clip_input(),
                *later_widgets(GuidanceSettings),
            ],
            outputs=[io.Guider.Output(display_name="guider", tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, model: Any, conditioning: list | None = None, clip: Any = None, **values: Any) -> io.NodeOutput:
        from ..hosts.comfy.conditioning import check_conditioning, checked_when_sampled
        from ..hosts.comfy.empty_prompt import need_prompt
        from ..hosts.comfy.recommended import recommended
        from ..hosts.comfy.sampling import color_guider

        expect(cls, model=model, clip=clip)
        settings = resolved(cls, GuidanceSettings, recommended(model, "exemplar"), values)
        conditioning = need_prompt(conditioning, clip, model, title(cls))
        check_conditioning(conditioning, title(cls), model=model)
        model = checked_when_sampled(model, conditioning, title(cls))
        return io.NodeOutput(color_guider(model, conditioning, settings.guidance, settings.step_limit))


class MatchLatentStatistics(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarMatchLatentStatistics",
            display_name="Latent Statistics Match (AdaIN)",
            category=CATEGORY_STAGES,
            description="Gives each channel of a latent the mean and spread that it has in another latent.",
            search_aliases=["adain", "latent color match", "mean std", "latent statistics"],
            inputs=[
                io.Latent.Input("latent", tooltip="The noised gray picture."),
                io.Latent.Input(
                    "reference",
                    tooltip="The noised reference: one for all, one for each, or any number for all. Its size may "
                    "differ.",
                ),
                *widgets(StatisticsMatchSettings, "strength"),
                statistics_mask_input(),
                *later_widgets(StatisticsMatchSettings, PooledReferencesSettings),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="The latent with the reference's statistics.")],
        )

    @classmethod
    def execute(
        cls,
        latent: dict[str, Any],
        reference: dict[str, Any],
        reference_mask: Tensor | None = None,
        **values: Any,
    ) -> io.NodeOutput:
        several = several_of(cls, values)
        settings = resolved(cls, StatisticsMatchSettings, {}, values)
        content, style = latent_samples(cls, latent, "latent"), latent_samples(cls, reference, "reference")
        masks = statistics_mask(cls, reference_mask, several, len(style))
        return io.NodeOutput({**latent, "samples": match_latents(content, style, settings, several, masks)})


NODES = [DualAttentionColorInjection, ColorGuidance, MatchLatentStatistics]
