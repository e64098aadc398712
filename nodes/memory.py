"""Color memories: written from references, strokes and palettes, and merged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..pipelines.memory import merged_memories, write_palette, write_references, write_strokes
from ..pipelines.memory_settings import FeatureSettings, PaletteSettings, ShareSettings, WritingSettings
from .common import CATEGORY_MEMORY, ColorFeatures, ColorMemory, FrameProgress, warn_if_colored
from .inputs import expect, optional_mask, optional_picture, picture
from .memory_inputs import ALIASES, network_input, prompt_inputs
from .widgets import later_widgets, resolved, title, widgets

if TYPE_CHECKING:
    from torch import Tensor

    from ..memory.entries import ColorMemory as Memory
    from ..pipelines.memory_features import PictureFeatures

_MEMORY = "For Color by Memory, Exemplar Colorize, Merge Color Memories and Save Color Memory."


class ReadFeatures(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarColorFeatures",
            display_name="Color Features",
            category=CATEGORY_MEMORY,
            description="Looks at pictures once, so that strokes on them and colors from a memory need the model no "
            "more: with it a new stroke shows at once.",
            search_aliases=["features", "precompute", "interactive", "strokes without waiting", *ALIASES],
            hidden=[io.Hidden.unique_id],
            inputs=[
                network_input(),
                io.Image.Input(
                    "image", tooltip="The gray pictures that are to be colored. Only their lightness is used."
                ),
                *widgets(FeatureSettings, "layers", "timestep", "resolution"),
                *prompt_inputs(),
                *later_widgets(FeatureSettings),
            ],
            outputs=[
                ColorFeatures.Output(
                    display_name="features",
                    tooltip="For Color by Memory and Color Strokes with the same picture, and the same layers and "
                    "timestep as the memory.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        image: Tensor,
        vae: Any = None,
        conditioning: list | None = None,
        clip: Any = None,
        **values: Any,
    ) -> io.NodeOutput:
        from ..hosts.comfy.color_memories import looking
        from ..hosts.comfy.memory import resting_place
        from ..pipelines.memory_features import PictureFeatures

        expect(cls, model=model, vae=vae, clip=clip)
        image = picture(cls, image, "image")
        network = looking(model, vae, conditioning, title(cls), clip)
        settings = resolved(cls, FeatureSettings, network.recommended, values)
        read = network.batched(settings, FrameProgress(len(image)))
        return io.NodeOutput(PictureFeatures.read(read, image, resting_place()))


class WriteMemory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarColorMemory",
            display_name="Color Memory",
            category=CATEGORY_MEMORY,
            description="Remembers what the things in color references look like and which colors they have, in one "
            "model call. Any number of gray pictures can be colored by it.",
            search_aliases=[
                "several references",
                "multiple references",
                "reference colors",
                *ALIASES,
            ],
            hidden=[io.Hidden.unique_id],
            inputs=[
                network_input(),
                io.Image.Input(
                    "references",
                    tooltip="One or more color pictures. Those of other sizes get a node of their own and are merged.",
                ),
                *widgets(ShareSettings, "weights"),
                *widgets(WritingSettings, "resolution", "layers", "timestep", "context", "keys"),
                io.Mask.Input(
                    "masks",
                    optional=True,
                    tooltip="Which part of a reference counts; white counts. One for all references, or one for each.",
                ),
                *prompt_inputs(),
                *later_widgets(WritingSettings, ShareSettings),
            ],
            outputs=[ColorMemory.Output(display_name="memory", tooltip=_MEMORY)],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        references: Tensor,
        weights: str = "",
        masks: Tensor | None = None,
        vae: Any = None,
        conditioning: list | None = None,
        clip: Any = None,
        **values: Any,
    ) -> io.NodeOutput:
        from ..hosts.comfy.color_memories import looking

        expect(cls, model=model, vae=vae, clip=clip)
        references = picture(cls, references, "references")
        masks = optional_mask(cls, masks, "masks", len(references))
        numbers = ShareSettings.resolve(weights=weights).numbers
        network = looking(model, vae, conditioning, title(cls), clip)
        settings = resolved(cls, WritingSettings, network.recommended, values)
        read = network.batched(settings.features, FrameProgress(len(references)))
        return io.NodeOutput(write_references(read, references, settings, masks=masks, weights=numbers))


class WriteStrokes(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarColorStrokes",
            display_name="Color Strokes",
            category=CATEGORY_MEMORY,
            description="Remembers colors that were painted on a gray picture. On that very picture they hold exactly "
            "where they were painted and flow to what belongs together; on others they count for what looks alike.",
            search_aliases=[
                "strokes",
                "scribble",
                "scribbles",
                "color hints",
                "paint colors",
                "user-guided colorization",
                *ALIASES,
            ],
            hidden=[io.Hidden.unique_id],
            inputs=[
                network_input(),
                io.Image.Input("image", tooltip="The gray picture, one. Of a colored one only the lightness is used."),
                io.Image.Input(
                    "marks",
                    tooltip="The colors, of the picture's own size: a copy of the picture with strokes painted on it, "
                    "or any picture of colors together with a mask.",
                ),
                *widgets(WritingSettings, "resolution", "layers", "timestep", "context", "keys"),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where marks are painted: what is above one half. Without it marks are what differs from "
                    "the picture.",
                ),
                ColorFeatures.Input(
                    "features",
                    optional=True,
                    tooltip="Of the same picture, from Color Features: then the model is not run for a new stroke.",
                ),
                *prompt_inputs(),
                *later_widgets(WritingSettings),
            ],
            outputs=[ColorMemory.Output(display_name="memory", tooltip=_MEMORY)],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        image: Tensor,
        marks: Tensor,
        mask: Tensor | None = None,
        features: PictureFeatures | None = None,
        vae: Any = None,
        conditioning: list | None = None,
        clip: Any = None,
        **values: Any,
    ) -> io.NodeOutput:
        from ..hosts.comfy.color_memories import looking

        expect(cls, model=model, vae=vae, clip=clip, features=features)
        image, marks = picture(cls, image, "image"), picture(cls, marks, "marks")
        mask = optional_mask(cls, mask, "mask", 1)
        warn_if_colored(image, "image")
        network = looking(model, vae, conditioning, title(cls), clip)
        settings = resolved(cls, WritingSettings, network.recommended, values)
        read = features or network.batched(settings.features, FrameProgress(1))
        return io.NodeOutput(write_strokes(read, image, marks, settings, mask=mask))


class WritePalette(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarColorPalette",
            display_name="Color Palette",
            category=CATEGORY_MEMORY,
            description="Keeps what is colored by a memory to the colors of a palette and to mixtures of them: those "
            "of a picture, of a list, or of both.",
            search_aliases=["palette", "limit colors", "hex colors", "color scheme", "swatches", *ALIASES],
            hidden=[io.Hidden.unique_id],
            inputs=[
                *widgets(PaletteSettings, "colors", "by_lightness"),
                io.Image.Input(
                    "image", optional=True, tooltip="Pictures whose colors are the palette, every pixel one of them."
                ),
                io.Mask.Input(
                    "region",
                    optional=True,
                    tooltip="The region of the input that the palette holds for, one; without it the whole picture. "
                    "There a palette with a region takes the place of those without.",
                ),
                *later_widgets(PaletteSettings),
            ],
            outputs=[
                ColorMemory.Output(
                    display_name="memory",
                    tooltip="It has no colors for places: merge it with the memory of references or strokes.",
                )
            ],
        )

    @classmethod
    def execute(cls, image: Tensor | None = None, region: Tensor | None = None, **values: Any) -> io.NodeOutput:
        import torch

        settings = resolved(cls, PaletteSettings, {}, values)
        image, region = optional_picture(cls, image, "image"), optional_mask(cls, region, "region", 1)
        if region is not None and not bool((region > 0).any()):
            raise ValueError("region: found a mask that covers nothing, expected some place; paint one.")
        pixels = [] if image is None else [image.cpu().float().reshape(1, 1, -1, 3)]
        listed = settings.listed
        if listed is not None:
            pixels.append(listed)
        if not pixels:
            raise ValueError("colors: found none, expected some, such as #c8102e, or a picture of them as image.")
        named = "image" if listed is None else "colors"
        colors = torch.cat(pixels, 2)
        return io.NodeOutput(write_palette(colors, mask=region, by_lightness=settings.by_lightness, called=named))


class MergeMemories(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        more = [
            ColorMemory.Input(f"memory_{number}", optional=True, tooltip="One more, where there is one.")
            for number in range(3, 7)
        ]
        return io.Schema(
            node_id="ExemplarMergeMemories",
            display_name="Merge Color Memories",
            category=CATEGORY_MEMORY,
            description="Makes one color memory of several: references of several sizes, strokes on top of references, "
            "a palette for all of them. All were written with the same model and settings.",
            search_aliases=["combine memories", "join references", *ALIASES],
            inputs=[
                ColorMemory.Input("memory_1", tooltip="Any color memory."),
                ColorMemory.Input("memory_2", tooltip="Another one, written with the same model, layers and context."),
                *widgets(ShareSettings, "weights"),
                *more,
                *later_widgets(ShareSettings),
            ],
            outputs=[ColorMemory.Output(display_name="memory", tooltip=_MEMORY)],
        )

    @classmethod
    def execute(
        cls,
        memory_1: Memory,
        memory_2: Memory,
        memory_3: Memory | None = None,
        memory_4: Memory | None = None,
        memory_5: Memory | None = None,
        memory_6: Memory | None = None,
        **values: Any,
    ) -> io.NodeOutput:
        given = [memory_1, memory_2, memory_3, memory_4, memory_5, memory_6]
        memories = {f"memory_{number}": memory for number, memory in enumerate(given, 1)}
        expect(cls, **memories)
        settings = resolved(cls, ShareSettings, {}, values)
        connected = {name: memory for name, memory in memories.items() if memory is not None}
        return io.NodeOutput(merged_memories(connected, settings.numbers))


NODES = [ReadFeatures, WriteMemory, WriteStrokes, WritePalette, MergeMemories]
