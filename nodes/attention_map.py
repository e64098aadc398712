"""Seeing where attention looks."""

from __future__ import annotations

from comfy_api.latest import io

from ..color import as_picture
from ..pipelines.attention_map import attention_maps
from .common import CATEGORY, Inversion


class AttentionMap(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarAttentionMap",
            display_name="Attention Map",
            category=CATEGORY,
            description="Shows where a point or a region of the input looks in the reference, and the reference "
            "carried "
            "over to the input by attention.",
            search_aliases=["attention heatmap", "correspondence", "where does it look", "attention visualisation"],
            inputs=[
                Inversion.Input("input_inversion", tooltip="The input's inversion, with kept q."),
                Inversion.Input(
                    "reference_inversion",
                    tooltip="With kept k. Best is the gray reference's: it "
                    "shows the gray-to-gray match. After Exemplar Colorize, the color reference's has its "
                    "k in fine layers only.",
                ),
                io.Image.Input("image", tooltip="The input picture."),
                io.Image.Input("reference", tooltip="The reference picture."),
                io.Float.Input(
                    "x",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    tooltip="Where to look from: 0 is the left edge, 1 the right.",
                ),
                io.Float.Input(
                    "y",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    tooltip="0 is the top edge, 1 the bottom.",
                ),
                io.String.Input(
                    "layers",
                    default="coarse",
                    advanced=True,
                    tooltip="Layers to average: coarse ones match things, fine ones match textures.",
                ),
                io.Float.Input(
                    "position",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.001,
                    advanced=True,
                    tooltip="When on the way back to look: 0 is the noisiest kept step, 1 the last.",
                ),
                io.Combo.Input(
                    "carry",
                    options=["soft", "hard"],
                    default="soft",
                    advanced=True,
                    tooltip="soft averages the reference's colors with the attention weights; hard takes the "
                    "best match of every place.",
                ),
                io.Int.Input("picture", default=0, min=0, max=4095, advanced=True, tooltip="Which picture of a batch."),
                io.Mask.Input("mask", optional=True, tooltip="Look from this region instead of the point."),
            ],
            outputs=[
                io.Image.Output(display_name="heat_map", tooltip="Input with the point, reference with its attention."),
                io.Mask.Output(display_name="heat", tooltip="The attention on the reference, largest value 1."),
                io.Image.Output(display_name="correspondence", tooltip="The reference carried over to the input."),
                io.Mask.Output(display_name="confidence", tooltip="White where attention rests on one place."),
            ],
        )

    @classmethod
    def execute(
        cls,
        input_inversion,
        reference_inversion,
        image,
        reference,
        x,
        y,
        layers="coarse",
        position=0.0,
        carry="soft",
        picture=0,
        mask=None,
    ) -> io.NodeOutput:
        image, reference = picture_of(image, "image", picture), picture_of(reference, "reference", picture)
        region = mask[picture % len(mask)][None] if mask is not None else None
        maps = attention_maps(
            input_inversion,
            reference_inversion,
            image,
            reference,
            point=(x, y),
            region=region,
            layers=layers,
            position=position,
            carry=carry,
            picture=picture,
        )
        return io.NodeOutput(maps.shown, maps.heat, maps.carried, maps.confidence)


def picture_of(batch, name: str, index: int):
    """One picture of a checked batch, as a batch of one; a batch that is too short starts over."""
    return as_picture(batch, name)[index % len(batch)][None]


NODES = [AttentionMap]
