"""Colors from a second source where attention finds no match."""

from __future__ import annotations

from comfy_api.latest import io

from ..color import as_picture, check_batch, desaturate, merge_chroma
from ..color.heat import over_picture
from ..pipelines.confidence import blended_chroma, full_size, match_confidence, trust
from .common import CATEGORY_STAGES, Inversion, share


class ConfidenceBlend(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarConfidenceBlend",
            display_name="Confidence Blend",
            category=CATEGORY_STAGES,
            description="Keeps the reference's colors where the input's attention is sure of its match, and takes "
            "another "
            "picture's where it is not.",
            search_aliases=["attention confidence", "fallback color", "ddcolor blend", "no match in reference"],
            inputs=[
                io.Image.Input(
                    "color_image", tooltip="The picture colored by the reference: decoded, or from Exemplar Colorize."
                ),
                io.Image.Input(
                    "fallback", tooltip="The same picture colored in another way, for example by DDColor; any size."
                ),
                Inversion.Input("input_inversion", tooltip="The input's inversion, with kept q."),
                Inversion.Input("reference_inversion", tooltip="With kept k; best is the gray reference's."),
                share(
                    "fallback_below",
                    0.3,
                    "Confidence below which the fallback's colors are used: 0 never, 1 nearly "
                    "everywhere. Look at picture to choose it.",
                    advanced=False,
                ),
                io.Mask.Input(
                    "reference_mask",
                    optional=True,
                    tooltip="Which part of the reference counts; the same mask that the injection had.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="At color_image's size, with its lightness."),
                io.Mask.Output(
                    display_name="from_reference",
                    tooltip="White where colors are the reference's, black where they are the fallback's.",
                ),
                io.Image.Output(
                    display_name="picture", tooltip="The confidence over the input: dark is unsure, bright is sure."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, color_image, fallback, input_inversion, reference_inversion, fallback_below, reference_mask=None
    ) -> io.NodeOutput:
        color_image, fallback = as_picture(color_image, "color_image"), as_picture(fallback, "fallback")
        check_batch(color_image=color_image, fallback=fallback)
        if input_inversion.pictures != len(color_image):
            raise ValueError(
                f"color_image has {len(color_image)} picture(s), but {input_inversion.pictures} were inverted; connect "
                f"the "
                "inversion of these pictures (Exemplar Colorize keeps that of its first batch only: raise its batch)."
            )
        sure = match_confidence(input_inversion, reference_inversion, reference_mask)
        size = tuple(color_image.shape[1:3])
        shown = over_picture(desaturate(color_image).cpu(), full_size(sure, size))
        from_reference = full_size(trust(sure, fallback_below), size)
        if fallback_below == 0:
            return io.NodeOutput(color_image, from_reference, shown)
        chroma = blended_chroma(color_image, fallback, from_reference)
        return io.NodeOutput(merge_chroma(chroma, color_image), from_reference, shown)


NODES = [ConfidenceBlend]
