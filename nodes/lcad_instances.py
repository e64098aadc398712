"""Instance-aware sampling: phrases of a prompt with masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..attention.instances import InstanceSettings
from .common import CATEGORY
from .inputs import expect, mask, text
from .widgets import later_widgets, resolved, title, widgets

if TYPE_CHECKING:
    from torch import Tensor


class LCADInstances(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarLCADInstances",
            display_name="L-CAD Instances",
            category=CATEGORY,
            description="Draws phrases of the prompt into masks, so that each thing gets the color that its own words "
            "say (L-CAD, Chang et al. 2023). Works on every Stable Diffusion UNet; several can be chained.",
            search_aliases=[
                "l-cad",
                "lcad",
                "regional prompt",
                "instance aware",
                "mask prompt",
                "attention couple",
                "phrase mask",
            ],
            inputs=[
                io.Model.Input("model", tooltip="L-CAD, or a Stable Diffusion 1.x, 2.x or SDXL model."),
                io.Clip.Input("clip", tooltip="The CLIP that reads the prompt."),
                io.Mask.Input(
                    "masks",
                    tooltip="A mask for each phrase, in their order, from any segmentation node, of any size; white is "
                    "where it belongs. For several pictures: one set for all, or a set for each, picture after "
                    "picture.",
                ),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default="",
                    tooltip="The whole positive prompt, for example 'the red cup, the blue cup'.",
                ),
                io.String.Input(
                    "phrases",
                    multiline=True,
                    default="",
                    tooltip="The parts of the prompt that have a mask, one a line, written as they stand there; "
                    "capitals do not matter. A phrase named twice means its first and its second mention. Empty: the "
                    "parts between commas, as published.",
                ),
                *widgets(InstanceSettings, "strength", "step", "schedule", "start_percent", "end_percent"),
                *later_widgets(InstanceSettings),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="The model with the phrases; the one that came in stays as it was."
                ),
                io.Conditioning.Output(
                    display_name="positive",
                    tooltip="The prompt, encoded as the phrases were looked up in it: for L-CAD Condition or the "
                    "sampler.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, masks: Tensor, prompt: str, phrases: str = "", **values: Any
    ) -> io.NodeOutput:
        from ..hosts.comfy.families.found import require_network
        from ..hosts.comfy.lcad_instances import draw_phrases

        expect(cls, model=model, clip=clip)
        require_network(model, title(cls))
        settings = resolved(cls, InstanceSettings, {}, values)
        masks, prompt = mask(cls, masks, "masks"), text(cls, prompt, "prompt")
        lines = text(cls, phrases, "phrases").splitlines()
        return io.NodeOutput(*draw_phrases(model, clip, masks, prompt, lines, settings))


NODES = [LCADInstances]
