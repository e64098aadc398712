"""Colors from a second source where attention finds no match."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..pipelines.confidence import ConfidenceBlendSettings, confidence_blend
from ..pipelines.exemplar_settings import ReferencesSettings
from .common import CATEGORY_STAGES, Inversion
from .inputs import expect, optional_mask, picture
from .references import several_of
from .widgets import later_widgets, resolved, widgets

if TYPE_CHECKING:
    from torch import Tensor

    from ..diffusion.inversion import Inversion as KeptInversion


class ConfidenceBlend(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarConfidenceBlend",
            display_name="Confidence Blend",
            category=CATEGORY_STAGES,
            description="Keeps the reference's colors where the input's attention is sure of its match, and takes "
            "another picture's where it is not.",
            search_aliases=["attention confidence", "fallback color", "ddcolor blend", "no match in reference"],
            inputs=[
                io.Image.Input(
                    "color_image", tooltip="The picture colored by the reference: decoded, or from Exemplar Colorize."
                ),
                io.Image.Input(
                    "fallback",
                    tooltip="The same picture colored in another way, for example by DDColor; any size, one for all "
                    "pictures or one for each.",
                ),
                Inversion.Input(
                    "input_inversion",
                    tooltip="The input's inversion, with kept q. As many pictures as color_image has.",
                ),
                Inversion.Input(
                    "reference_inversion",
                    tooltip="The reference's inversion, with kept k. Best is the gray reference's.",
                ),
                *widgets(ConfidenceBlendSettings, "fallback_below"),
                io.Mask.Input(
                    "reference_mask",
                    optional=True,
                    tooltip="Which part of the reference counts; the same mask that the injection had.",
                ),
                *later_widgets(ConfidenceBlendSettings, ReferencesSettings),
            ],
            outputs=[
                io.Image.Output(
                    display_name="image", tooltip="The blended picture, at color_image's size and with its lightness."
                ),
                io.Mask.Output(
                    display_name="from_reference",
                    tooltip="White where colors are the reference's, black where they are the fallback's.",
                ),
                io.Image.Output(
                    display_name="picture",
                    tooltip="The confidence laid over the input: dark is unsure, bright is sure.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        color_image: Tensor,
        fallback: Tensor,
        input_inversion: KeptInversion,
        reference_inversion: KeptInversion,
        reference_mask: Tensor | None = None,
        **values: Any,
    ) -> io.NodeOutput:
        from ..hosts.comfy.memory import compute_device, out_of_memory, results

        expect(cls, input_inversion=input_inversion, reference_inversion=reference_inversion)
        several = several_of(cls, values)
        settings = resolved(cls, ConfidenceBlendSettings, {}, values)
        color_image, fallback = picture(cls, color_image, "color_image"), picture(cls, fallback, "fallback")
        reference_mask = optional_mask(cls, reference_mask, "reference_mask")
        blend = confidence_blend(
            color_image,
            fallback,
            input_inversion,
            reference_inversion,
            settings,
            reference_mask=reference_mask,
            several=several,
            device=compute_device(),
            out_of_memory=out_of_memory,
        )
        return io.NodeOutput(*results(blend.images, blend.from_reference, blend.shown))


NODES = [ConfidenceBlend]
