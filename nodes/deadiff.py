"""DEADiff: its loader, references to tokens, and tokens into a MODEL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..hosts.comfy.folders import DEADIFF, EMBEDDED
from ..pipelines.deadiff import DEADiffEncodeSettings, DEADiffSettings
from .common import CATEGORY, FrameProgress, WeightSettings
from .inputs import choice, expect, optional_mask, picture
from .widgets import later_widgets, resolved, title, widgets

if TYPE_CHECKING:
    from torch import Tensor

    from ..hosts.comfy.deadiff import ComfyDEADiff
    from ..hosts.comfy.deadiff import DEADiffTokens as ImageTokenSet

#: DEADiff's encoder under ComfyUI's model manager (``hosts.comfy.deadiff.ComfyDEADiff``), and what it made of
#: references.
DEADiffNetwork = io.Custom("DEADIFF")
DEADiffTokens = io.Custom("DEADIFF_TOKENS")


class LoadDEADiff(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarLoadDEADiff",
            display_name="Load DEADiff",
            category=CATEGORY,
            description="Loads what DEADiff adds to Stable Diffusion 1.x: the encoder that turns a reference into "
            "tokens, and how the model listens to them. The rest of its checkpoint is left on disk.",
            search_aliases=["deadiff", "style adapter", "image prompt", "style reference loader", "blip diffusion"],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=DEADIFF.choices(),
                    default=EMBEDDED,
                    tooltip="DEADiff's checkpoint (.ckpt or .safetensors), or an adapter made from it: a file in "
                    "models/deadiff, or in models/checkpoints if there is none of that name. embedded is a tiny one "
                    "that comes with the pack, for the embedded model only.",
                ),
                *widgets(WeightSettings, "precision"),
                *later_widgets(WeightSettings),
            ],
            outputs=[
                DEADiffNetwork.Output(
                    display_name="deadiff",
                    tooltip="The encoder and the projections, for DEADiff Encode. ComfyUI loads, offloads and counts "
                    "the encoder.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, model_name: str | None = None) -> bool | str:
        return DEADIFF.check(model_name)

    @classmethod
    def execute(cls, model_name: str, **values: Any) -> io.NodeOutput:
        from ..hosts.comfy.deadiff import load

        settings = resolved(cls, WeightSettings, {}, values)
        return io.NodeOutput(choice(cls, "model_name", model_name, lambda name: load(name, settings.dtype)))


class DEADiffEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarDEADiffEncode",
            display_name="DEADiff Encode",
            category=CATEGORY,
            description="Turns references into tokens of their style, of what they show, or of both (Qi et al. 2024). "
            "Runs once; sampling reuses the tokens.",
            search_aliases=["style tokens", "semantic tokens", "deadiff encode", "image prompt encode", "q-former"],
            inputs=[
                DEADiffNetwork.Input("deadiff", tooltip="From Load DEADiff."),
                io.Image.Input(
                    "image",
                    tooltip="One reference or a batch of them. They are squeezed into a small square, as the published "
                    "program does it, so crop to what matters.",
                ),
                *widgets(DEADiffEncodeSettings, "take", "weights", "combine", "semantic_word"),
                DEADiffTokens.Input(
                    "tokens",
                    optional=True,
                    tooltip="Tokens of the other kind from another reference: style from one picture, semantics from "
                    "another.",
                ),
                *later_widgets(DEADiffEncodeSettings),
            ],
            outputs=[DEADiffTokens.Output(display_name="tokens", tooltip="For Apply DEADiff.")],
        )

    @classmethod
    def execute(
        cls, deadiff: ComfyDEADiff, image: Tensor, tokens: ImageTokenSet | None = None, **values: Any
    ) -> io.NodeOutput:
        expect(cls, deadiff=deadiff, tokens=tokens)
        settings = resolved(cls, DEADiffEncodeSettings, {}, values)
        image = picture(cls, image, "image")
        encoded = deadiff.tokens(image, settings, FrameProgress(len(image)))
        return io.NodeOutput(encoded if tokens is None else encoded.joined(tokens))


class ApplyDEADiff(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarApplyDEADiff",
            display_name="Apply DEADiff",
            category=CATEGORY,
            description="Lets a Stable Diffusion 1.x MODEL listen to a reference's tokens beside the prompt: its "
            "coarse layers to what is shown, the others to style. Goes together with LoRAs, ControlNets, IP-Adapters "
            "and the color nodes.",
            search_aliases=["apply style", "deadiff", "ip adapter", "ipadapter", "reference style", "image prompt"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="A Stable Diffusion 1.x MODEL, also with LoRAs; for embedded tokens the embedded one.",
                ),
                DEADiffTokens.Input("tokens", tooltip="From DEADiff Encode."),
                *widgets(
                    DEADiffSettings,
                    "weight",
                    "start_percent",
                    "end_percent",
                    "weighting",
                    "semantic_layers",
                    "style_layers",
                    "timesteps",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where in the picture the tokens act; white is everywhere. One for all pictures, or one "
                    "for each. Two of these nodes with masks take two references for two regions.",
                ),
                *later_widgets(DEADiffSettings),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="Sample it as usual.",
                )
            ],
        )

    @classmethod
    def execute(cls, model: Any, tokens: ImageTokenSet, mask: Tensor | None = None, **values: Any) -> io.NodeOutput:
        from ..hosts.comfy.deadiff import apply

        expect(cls, model=model, tokens=tokens)
        settings = resolved(cls, DEADiffSettings, {}, values)
        return io.NodeOutput(apply(model, tokens, settings, optional_mask(cls, mask, "mask"), title(cls)))


NODES = [LoadDEADiff, DEADiffEncode, ApplyDEADiff]
