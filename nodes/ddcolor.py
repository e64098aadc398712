"""Automatic color: DDColor's loader, and the node that runs it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..hosts.comfy.folders import DDCOLOR, EMBEDDED
from ..pipelines.ddcolor import AutoColorSettings, auto_color
from .common import CATEGORY, FrameProgress, WeightSettings, warn_if_colored
from .inputs import choice, expect, optional_mask, picture
from .widgets import later_widgets, resolved, widgets

if TYPE_CHECKING:
    from torch import Tensor

    from ..hosts.comfy.ddcolor import ComfyDDColor

log = logging.getLogger(__name__)

#: A DDColor network under ComfyUI's model manager (``hosts.comfy.ddcolor.ComfyDDColor``).
DDColorNetwork = io.Custom("DDCOLOR")


class LoadDDColor(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarLoadDDColor",
            display_name="Load DDColor",
            category=CATEGORY,
            description="Loads a DDColor network, which colors gray pictures with no reference at all. Which of the "
            "released ones a file holds is read from its weights.",
            search_aliases=["ddcolor", "colorize model", "ddcolor loader", "modelscope"],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=DDCOLOR.choices(),
                    default=EMBEDDED,
                    tooltip="A file of models/ddcolor or, if it has none of that name, of models/upscale_models: .pth, "
                    ".pt, .bin or .safetensors. ddcolor_modelscope is a good start, ddcolor_artistic is more colorful, "
                    "ddcolor_paper_tiny is the smallest released one. embedded is a tiny one that comes with the pack "
                    "and knows drawings only.",
                ),
                *widgets(WeightSettings, "precision"),
                *later_widgets(WeightSettings),
            ],
            outputs=[
                DDColorNetwork.Output(
                    display_name="ddcolor",
                    tooltip="The network, for DDColor. ComfyUI loads it when it is needed, offloads it and counts its "
                    "memory.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, model_name: str | None = None) -> bool | str:
        return DDCOLOR.check(model_name)

    @classmethod
    def execute(cls, model_name: str, **values: Any) -> io.NodeOutput:
        from ..hosts.comfy.ddcolor import load

        settings = resolved(cls, WeightSettings, {}, values)
        loaded = choice(cls, "model_name", model_name, lambda name: load(name, settings.dtype))
        log.info("%s is a DDColor network on %s.", loaded.name, loaded.variant)
        return io.NodeOutput(loaded)


class DDColor(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarDDColor",
            display_name="DDColor",
            category=CATEGORY,
            description="Colors gray pictures or video frames with no reference, in one forward pass (Kang et al. "
            "2023). The result has the picture's own size and lightness.",
            search_aliases=[
                "automatic colorization",
                "colorize photo",
                "colorize video",
                "ddcolor",
                "auto color",
                "automatic color",
                "recolor",
                "deoldify",
            ],
            hidden=[io.Hidden.unique_id],
            inputs=[
                DDColorNetwork.Input("ddcolor", tooltip="From Load DDColor."),
                io.Image.Input(
                    "image", tooltip="One or more gray pictures. Of a colored picture only the lightness is used."
                ),
                *widgets(
                    AutoColorSettings,
                    "resolution",
                    "saturation",
                    "strength",
                    "steady",
                    "shape",
                    "upsampling",
                    "gamut",
                    "arithmetic",
                    "batch",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the new colors go; elsewhere the picture stays as it is. One for all pictures, or "
                    "one for each.",
                ),
                *later_widgets(AutoColorSettings),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The pictures in color, at their own size.")],
        )

    @classmethod
    def execute(cls, ddcolor: ComfyDDColor, image: Tensor, mask: Tensor | None = None, **values: Any) -> io.NodeOutput:
        expect(cls, ddcolor=ddcolor)
        settings = resolved(cls, AutoColorSettings, ddcolor.recommended, values)
        image, mask = picture(cls, image, "image"), optional_mask(cls, mask, "mask")
        if settings.strength == 1:
            warn_if_colored(image, "image")
        return io.NodeOutput(auto_color(ddcolor, image, settings, mask=mask, on_frames=FrameProgress(len(image))))


NODES = [LoadDDColor, DDColor]
