"""Seeing where attention looks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..pipelines.attention_map import AttentionMapSettings, attention_maps, attention_maps_of_several
from ..pipelines.exemplar_references import References
from ..pipelines.exemplar_settings import ReferencesSettings
from .common import CATEGORY, Inversion
from .inputs import expect, optional_mask, picture
from .references import several_of
from .widgets import later_widgets, resolved, widgets

if TYPE_CHECKING:
    from torch import Tensor

    from ..diffusion.inversion import Inversion as KeptInversion


class AttentionMap(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarAttentionMap",
            display_name="Attention Map",
            category=CATEGORY,
            description="Shows where a point or a region of the input looks in the reference, and the reference "
            "carried over to the input by attention.",
            search_aliases=["attention heatmap", "correspondence", "where does it look", "attention visualisation"],
            inputs=[
                Inversion.Input("input_inversion", tooltip="The input's inversion, with kept q."),
                Inversion.Input(
                    "reference_inversion",
                    tooltip="The reference's inversion, with kept k. Best is the gray reference's: it shows the "
                    "gray-to-gray match; the color reference's shows how the gray input matches the colored picture, "
                    "and after Exemplar Colorize has its k in fine layers only.",
                ),
                io.Image.Input("image", tooltip="The input picture."),
                io.Image.Input("reference", tooltip="The reference picture; its colors are carried over."),
                *widgets(AttentionMapSettings, "x", "y", "layers", "position", "carry", "picture"),
                io.Mask.Input("mask", optional=True, tooltip="Look from this region instead of the point."),
                io.Mask.Input(
                    "reference_mask",
                    optional=True,
                    tooltip="Which part of the reference may be looked at (what is above one half); the same mask that "
                    "the injection had. One for all references, or one for each.",
                ),
                *later_widgets(AttentionMapSettings, ReferencesSettings),
            ],
            outputs=[
                io.Image.Output(
                    display_name="heat_map",
                    tooltip="The input with the point or the region, and beside it the reference with the attention "
                    "laid over it; with all for every image one picture for each reference.",
                ),
                io.Mask.Output(
                    display_name="heat", tooltip="The attention alone, at the reference's size, largest value 1."
                ),
                io.Image.Output(
                    display_name="correspondence",
                    tooltip="The reference carried over to the input, at the input's size.",
                ),
                io.Mask.Output(
                    display_name="confidence",
                    tooltip="White where attention rests on one place, black where it is spread evenly.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        input_inversion: KeptInversion,
        reference_inversion: KeptInversion,
        image: Tensor,
        reference: Tensor,
        mask: Tensor | None = None,
        reference_mask: Tensor | None = None,
        **values: Any,
    ) -> io.NodeOutput:
        import torch

        from ..hosts.comfy.memory import compute_device, out_of_memory, results

        expect(cls, input_inversion=input_inversion, reference_inversion=reference_inversion)
        several = several_of(cls, values)
        settings = resolved(cls, AttentionMapSettings, {}, values)
        image, reference = picture(cls, image, "image"), picture(cls, reference, "reference")
        region = optional_mask(cls, mask, "mask")
        reference_mask = optional_mask(cls, reference_mask, "reference_mask")
        run = {"region": region, "device": compute_device(), "out_of_memory": out_of_memory}
        if several is None and reference_mask is not None:
            # of the picture's own reference the part that the mask leaves
            several, at = (), settings.picture % reference_inversion.pictures
            reference_inversion = reference_inversion.take(range(at, at + 1))
            reference = reference[settings.picture % len(reference)][None]
            reference_mask = reference_mask[settings.picture % len(reference_mask)][None]
        if several is None:
            maps = attention_maps(input_inversion, reference_inversion, image, reference, settings, **run)
            return io.NodeOutput(*results(maps.shown, maps.heat, maps.carried, maps.confidence))
        given = References.of(reference, reference_mask, several)
        each = attention_maps_of_several(
            input_inversion,
            [reference_inversion],
            image,
            given.pictures,
            settings,
            masks=given.masks,
            weights=given.weights,
            **run,
        )
        shown, heat = (torch.cat([getattr(maps, name) for maps in each]) for name in ("shown", "heat"))
        return io.NodeOutput(*results(shown, heat, each[0].carried, each[0].confidence))


NODES = [AttentionMap]
