"""Masks from words: CLIPSeg's loader, and the node that asks it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..hosts.comfy.folders import CLIPSEG
from ..pipelines.clipseg import LoadSettings, ReferringSettings, refer, tinted
from .common import CATEGORY, FrameProgress
from .inputs import choice, expect, picture, text
from .widgets import later_widgets, resolved, widgets

if TYPE_CHECKING:
    from torch import Tensor

    from ..hosts.comfy.clipseg import ComfyReferring

log = logging.getLogger(__name__)

#: A referring segmenter under ComfyUI's model manager (``hosts.comfy.clipseg.ComfyReferring``).
Referring = io.Custom("REFERRING")


class LoadCLIPSeg(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarLoadCLIPSeg",
            display_name="Load CLIPSeg",
            category=CATEGORY,
            description="Loads a referring segmentation model, which finds in a picture what a text says (Lüddecke and "
            "Ecker 2022).",
            search_aliases=["clipseg", "clipseg loader", "segmentation model"],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=CLIPSEG.choices(),
                    default=CLIPSEG.from_hub,
                    tooltip="A folder in models/clipseg, or the published one from the hub, which then stays there.",
                ),
                *widgets(LoadSettings, "allow_download"),
                *later_widgets(LoadSettings),
            ],
            outputs=[
                Referring.Output(
                    display_name="referring",
                    tooltip="The network, for Referring Mask, under ComfyUI's memory management.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, model_name: str | None = None) -> bool | str:
        return CLIPSEG.check(model_name)

    @classmethod
    def execute(cls, model_name: str, **values: Any) -> io.NodeOutput:
        from ..hosts.comfy.clipseg import load

        settings = resolved(cls, LoadSettings, {}, values)
        loaded = choice(cls, "model_name", model_name, lambda name: load(name, settings))
        log.info("%s looks at pictures in squares of %d.", loaded.name, loaded.loaded.side)
        return io.NodeOutput(loaded)


class ReferringMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarReferringMask",
            display_name="Referring Mask",
            category=CATEGORY,
            description="Makes masks from words: where in the picture each phrase applies, in the order that L-CAD "
            "Instances wants.",
            search_aliases=[
                "clipseg",
                "mask by text",
                "text mask",
                "text to mask",
                "referring segmentation",
                "segment by text",
            ],
            inputs=[
                Referring.Input("referring", tooltip="From Load CLIPSeg."),
                io.Image.Input("image", tooltip="One or more pictures of any size, gray ones too."),
                io.String.Input(
                    "phrases",
                    multiline=True,
                    default="",
                    tooltip="What to look for, one phrase a line. Name things rather than colors: a gray picture has "
                    "none.",
                ),
                *widgets(ReferringSettings, "threshold", "exclusive"),
                *later_widgets(ReferringSettings),
            ],
            outputs=[
                io.Mask.Output(
                    display_name="masks",
                    tooltip="A mask for each phrase, in their order, picture after picture, at the pictures' size.",
                ),
                io.Image.Output(
                    display_name="picture",
                    tooltip="The masks as colors over the gray picture, a color for each phrase.",
                ),
            ],
        )

    @classmethod
    def execute(cls, referring: ComfyReferring, image: Tensor, phrases: str, **values: Any) -> io.NodeOutput:
        expect(cls, referring=referring)
        settings = resolved(cls, ReferringSettings, {}, values)
        lines = [line.strip() for line in text(cls, phrases, "phrases").splitlines() if line.strip()]
        image = picture(cls, image, "image")
        masks = refer(referring, image, lines, settings, FrameProgress(len(image)), referring.out_of_memory)
        return io.NodeOutput(masks, tinted(image.cpu(), masks))


NODES = [LoadCLIPSeg, ReferringMask]
