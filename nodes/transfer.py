"""Colors of an edited copy, on the photograph's own pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..color.heat import displacement_picture
from ..hosts.comfy.runs import say
from ..pipelines.transfer import TransferSettings, transfer_colors
from .common import CATEGORY_COLOR, ColorMemory, FrameProgress
from .inputs import expect, optional_mask, optional_picture, picture
from .memory_inputs import network_input, prompt_inputs
from .widgets import later_widgets, resolved, title, widgets

if TYPE_CHECKING:
    from torch import Tensor

    from ..memory.entries import ColorMemory as Memory


class TransferColors(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarTransferColors",
            display_name="Transfer Colors",
            category=CATEGORY_COLOR,
            description="Colors of an edited copy on the photograph's own pixels: finds how an edit model zoomed, "
            "shifted and bent the picture, and lays the colors where they belong. Lightness and size stay the "
            "original's. It needs no model.",
            search_aliases=[
                "color transfer",
                "edit",
                "qwen",
                "kontext",
                "klein",
                "overlay color",
                "registration",
                "align",
                "restore",
                "restoration",
                "photo restoration",
                "optical flow",
            ],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Image.Input(
                    "original",
                    tooltip="The photograph: the result has its size, its pixels and its lightness. One or more, gray "
                    "or in color.",
                ),
                io.Image.Input(
                    "edited",
                    tooltip="What an edit model made of it, in color: one for each original or one for all, any size "
                    "and shape, crops included.",
                ),
                *widgets(TransferSettings, "motion", "fallback_below", "saturation", "keep_unchanged", "reach"),
                io.Image.Input(
                    "fallback",
                    optional=True,
                    tooltip="The original colored in another way, for example by DDColor: one for each or one for all, "
                    "any size. It gives colors where the edit shows something else, see fallback_below.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the new colors go; elsewhere the original stays as it is. One for all pictures, or "
                    "one for each.",
                ),
                network_input(
                    optional=True,
                    about="With it colors for unsure places are looked up by what places look like: in memory, or "
                    "without one in the edit itself.",
                ),
                ColorMemory.Input(
                    "memory",
                    optional=True,
                    tooltip="From Color Memory, written with the same model: gives colors where the edit shows "
                    "something else, see fallback_below. It comes before the fallback.",
                ),
                *prompt_inputs(),
                *later_widgets(TransferSettings),
            ],
            outputs=[
                io.Image.Output(
                    display_name="image", tooltip="The originals in the edit's colors, at their own size and lightness."
                ),
                io.Mask.Output(
                    display_name="confidence",
                    tooltip="How sure it is that the edit shows each place, white is sure. Black is redrawn, new or "
                    "cut off. Where a memory gave the colors, how sure that is.",
                ),
                io.Image.Output(
                    display_name="aligned",
                    tooltip="The edit laid on the original's pixels, for masks and layers of your own.",
                ),
                io.Image.Output(
                    display_name="displacement",
                    tooltip="How far and where each place has moved in the edit: hue is the direction, gray is not at "
                    "all.",
                ),
            ],
        )

    @classmethod
    def execute(  # one argument a socket
        cls,
        original: Tensor,
        edited: Tensor,
        fallback: Tensor | None = None,
        mask: Tensor | None = None,
        model: Any = None,
        memory: Memory | None = None,
        vae: Any = None,
        conditioning: list | None = None,
        clip: Any = None,
        **values: Any,
    ) -> io.NodeOutput:
        from ..hosts.comfy.memory import results

        expect(cls, model=model, memory=memory, vae=vae, clip=clip)
        original, edited = picture(cls, original, "original"), picture(cls, edited, "edited")
        fallback, mask = optional_picture(cls, fallback, "fallback"), optional_mask(cls, mask, "mask", len(original))
        settings = resolved(cls, TransferSettings, {}, values)
        network = {}
        if model is not None:
            from ..hosts.comfy.color_memories import looking

            network = looking(model, vae, conditioning, title(cls), clip).asking(memory)
        elif memory is not None:
            raise ValueError(
                f"{title(cls)}: model: found nothing beside the memory, expected the model that it was written with; "
                "connect it, or leave memory out."
            )
        result = transfer_colors(
            original,
            edited,
            settings,
            fallback=fallback,
            mask=mask,
            memory=memory,
            **network,
            progress=FrameProgress(len(original)),
        )
        farthest = float(result.displacement.norm(dim=-1).max())
        if farthest > 0:  # first, since the node shows what was said last
            say(f"{title(cls)}: the strongest color of displacement stands for {farthest:.1f} pixels.")
        for note in result.notes:
            say(f"{title(cls)}: {note}")
        shown = displacement_picture(result.displacement)
        return io.NodeOutput(*results(result.images, result.confidence, result.aligned, shown))


NODES = [TransferColors]
