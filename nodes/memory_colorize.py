"""Coloring by a color memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..pipelines.memory import joined_results, source_picture
from ..pipelines.memory_settings import MemorySettings
from .common import CATEGORY_MEMORY, ColorFeatures, ColorMemory, FrameProgress, warn_if_colored
from .inputs import expect, optional_mask, optional_picture, picture
from .memory_inputs import ALIASES, network_input, prompt_inputs
from .widgets import later_widgets, resolved, title, widgets

if TYPE_CHECKING:
    from torch import Tensor

    from ..memory.entries import ColorMemory as Memory
    from ..pipelines.memory_features import PictureFeatures


class MemoryColorize(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarMemoryColorize",
            display_name="Color by Memory",
            category=CATEGORY_MEMORY,
            description="Colors gray pictures by a color memory, in one model call a picture and without sampling. The "
            "result has the picture's own size and lightness; how sure each color is comes with it.",
            search_aliases=["fast colorization", "colorize by strokes", "colorize by palette", *ALIASES],
            hidden=[io.Hidden.unique_id],
            inputs=[
                network_input(),
                io.Image.Input(
                    "image", tooltip="One or more gray pictures. Of a colored picture only the lightness is used."
                ),
                ColorMemory.Input("memory", tooltip="From Color Memory, Color Strokes or Merge Color Memories."),
                *widgets(MemorySettings, "saturation", "resolution", "fallback_below"),
                *widgets(MemorySettings, "temperature_coarse", "temperature_fine", "coherence", "reach"),
                *widgets(MemorySettings, "top", "most", "batch"),
                io.Image.Input(
                    "fallback",
                    optional=True,
                    tooltip="The input colored in another way, for example by DDColor: one for each picture or one for "
                    "all, any size. It gives colors where the memory is not sure, see fallback_below.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where color may go; the rest stays gray. White is everywhere. One for all pictures, or "
                    "one for each.",
                ),
                ColorFeatures.Input(
                    "features",
                    optional=True,
                    tooltip="Of the same pictures, from Color Features: then the model is not run, and a new stroke "
                    "shows at once.",
                ),
                *prompt_inputs(),
                *later_widgets(MemorySettings),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The colored pictures, at their own size."),
                io.Mask.Output(
                    display_name="confidence",
                    tooltip="How sure the memory is, white is sure: about the share of such places that get their true "
                    "color.",
                ),
                io.Image.Output(
                    display_name="source",
                    tooltip="Which reference or strokes each place takes its color from, one hue for each; gray where "
                    "from none.",
                ),
            ],
        )

    @classmethod
    def execute(  # one argument a socket
        cls,
        model: Any,
        image: Tensor,
        memory: Memory,
        fallback: Tensor | None = None,
        mask: Tensor | None = None,
        features: PictureFeatures | None = None,
        vae: Any = None,
        conditioning: list | None = None,
        clip: Any = None,
        **values: Any,
    ) -> io.NodeOutput:
        from ..hosts.comfy.color_memories import colored, looking
        from ..hosts.comfy.memory import results

        expect(cls, model=model, vae=vae, clip=clip, memory=memory, features=features)
        image, fallback = picture(cls, image, "image"), optional_picture(cls, fallback, "fallback")
        mask = optional_mask(cls, mask, "mask", len(image))
        warn_if_colored(image, "image")
        network = looking(model, vae, conditioning, title(cls), clip)
        settings = resolved(cls, MemorySettings, network.recommended, values)
        bar, parts, done = FrameProgress(len(image)), [], 0
        for part in colored(network, image, memory, settings, mask=mask, fallback=fallback, features=features):
            parts.append(part)
            done += len(part.images)
            bar(done, part.images[-1])
        made = joined_results(parts)
        return io.NodeOutput(*results(made.images, made.confidence, source_picture(image, made.source)))


NODES = [MemoryColorize]
