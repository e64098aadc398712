"""Steady colors over the frames of a film."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..hosts.comfy.runs import say
from ..pipelines.steady import SteadyColorSettings, notes, steady_color
from .common import CATEGORY_COLOR, FrameProgress
from .inputs import optional_mask, optional_picture, picture
from .widgets import later_widgets, resolved, title, widgets

if TYPE_CHECKING:
    from torch import Tensor


class SteadyColor(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarSteadyColor",
            display_name="Steady Color",
            category=CATEGORY_COLOR,
            description="Calms the flicker of colored frames, whatever colored them: color is carried along the "
            "motion, from the frames before and after, and stops at cuts and where things hide each other. Every frame "
            "keeps its own lightness.",
            search_aliases=["deflicker", "temporal consistency", "video color flicker", "stabilize color", "flicker"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Image.Input(
                    "color_image",
                    tooltip="The colored frames, all of them in order, in one batch. One shot or several.",
                ),
                *widgets(SteadyColorSettings, "steadiness", "strength", "cuts", "resolution", "ahead"),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The gray frames that were colored, one for each. The result has their lightness and their "
                    "size. Left unconnected, it has those of color_image.",
                ),
                io.Mask.Input(
                    "confidence",
                    optional=True,
                    tooltip="How sure each color is, white is sure, as Color by Memory or Transfer Colors say: dark "
                    "places take their color from other frames. One for all frames, or one for each. Left "
                    "unconnected, all are equally sure.",
                ),
                *later_widgets(SteadyColorSettings),
            ],
            outputs=[
                io.Image.Output(
                    display_name="image", tooltip="The frames in steady colors, at their own size and lightness."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        color_image: Tensor,
        image: Tensor | None = None,
        confidence: Tensor | None = None,
        **values: Any,
    ) -> io.NodeOutput:
        from ..hosts.comfy.memory import results

        settings = resolved(cls, SteadyColorSettings, {}, values)
        color_image, image = picture(cls, color_image, "color_image"), optional_picture(cls, image, "image")
        confidence = optional_mask(cls, confidence, "confidence", len(color_image))
        for note in notes():
            say(f"{title(cls)}: {note}")
        progress = FrameProgress(len(color_image))
        made = steady_color(color_image, settings, image=image, confidence=confidence, progress=progress)
        return io.NodeOutput(*results(made))


NODES = [SteadyColor]
