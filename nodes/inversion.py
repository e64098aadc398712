"""Attention capture and DDIM inversion."""

from __future__ import annotations

from functools import partial
from typing import Any

from comfy_api.latest import io

from ..attention.capture import CaptureSettings
from ..attention.families import EVERY
from ..diffusion.inversion import InversionSettings
from .common import (
    CATEGORY_STAGES,
    Inversion,
    StepProgress,
    clip_input,
    conditioning_input,
    depth_within_steps,
)
from .inputs import expect, latent_samples, without_mask
from .widgets import later_widgets, resolved, title, widgets


class AttentionCapture(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarAttentionCapture",
            display_name="Attention Capture",
            category=CATEGORY_STAGES,
            description="Says which attention features a DDIM Inversion with this MODEL keeps. Changes nothing else.",
            search_aliases=["attention features", "keep attention", "q k v", "exemplar capture"],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL that DDIM Inversion will use."),
                *widgets(CaptureSettings, "layers", "keep", "precision", "keep_on"),
                *later_widgets(CaptureSettings),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The same model, for DDIM Inversion.")],
        )

    @classmethod
    def execute(cls, model: Any, **values: Any) -> io.NodeOutput:
        from ..hosts.comfy.exemplar import with_capture
        from ..hosts.comfy.families.found import require_network

        expect(cls, model=model)
        require_network(model, title(cls), EVERY)
        return io.NodeOutput(with_capture(model, resolved(cls, CaptureSettings, {}, values)))


class DDIMInversion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarDDIMInversion",
            display_name="DDIM Inversion",
            category=CATEGORY_STAGES,
            description="Finds the noise from which the model would draw this picture, and keeps the attention "
            "features that Attention Capture asked for on the way.",
            search_aliases=[
                "ddim inversion",
                "invert latent",
                "unsample",
                "invert noise",
                "noise inversion",
                "exemplar inversion",
            ],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="Stable Diffusion 1.x, 2.x, SDXL or 3, Flux.1, Flux.2, Chroma, Qwen-Image, Z-Image, Lumina "
                    "2, Anima, or the embedded model.",
                ),
                conditioning_input("Usually the empty prompt. Sample with the same one."),
                io.Latent.Input("latent", tooltip="The encoded picture. A batch is inverted together."),
                *widgets(InversionSettings, "depth", "steps", "convention", "refinements", "measure_round_trip"),
                clip_input(),
                *later_widgets(InversionSettings),
            ],
            outputs=[
                Inversion.Output(
                    display_name="inversion", tooltip="The latents at every level and the kept attention features."
                ),
                io.Latent.Output(
                    display_name="noised",
                    tooltip="The start of the way back. It is noised already: sample it without added noise.",
                ),
                io.Sigmas.Output(
                    display_name="sigmas",
                    tooltip="The noise levels of the way back, for SamplerCustomAdvanced or SamplerCustom.",
                ),
                io.Float.Output(
                    display_name="round_trip_error",
                    tooltip="Root mean square difference after coming back, divided by the picture's spread. 0 is "
                    "exact, below 0.1 is good; -1 means not measured.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, depth: int | None = None, steps: int | None = None) -> bool | str:
        return depth_within_steps(depth, steps)

    @classmethod
    def execute(
        cls, model: Any, latent: dict[str, Any], conditioning: list | None = None, clip: Any = None, **values: Any
    ) -> io.NodeOutput:
        from ..hosts.comfy.conditioning import check_conditioning, inversion_levels
        from ..hosts.comfy.empty_prompt import need_prompt
        from ..hosts.comfy.exemplar import invert
        from ..hosts.comfy.families.found import require_network
        from ..hosts.comfy.fits import check_latent
        from ..hosts.comfy.host import reads_films
        from ..hosts.comfy.recommended import recommended

        expect(cls, model=model, clip=clip)
        require_network(model, title(cls), EVERY)
        settings = resolved(cls, InversionSettings, recommended(model, "exemplar"), values)
        levels = inversion_levels(model, settings.steps, settings.depth, settings.convention)
        samples = latent_samples(cls, latent, "latent", frames=reads_films(model))
        conditioning = need_prompt(conditioning, clip, model, title(cls))
        check_conditioning(conditioning, title(cls), model=model, levels=levels, pictures=len(samples))
        check_latent(samples, model, title(cls))
        masks = "connect the mask to input_mask of Dual-Attention Color Injection, or to mask of Concept Fusion"
        without_mask(cls, latent, "latent", masks)
        made = invert(model, conditioning, samples, settings, partial(StepProgress, model))
        return io.NodeOutput(made.inversion, {**latent, "samples": made.noised}, made.sigmas, made.error)


NODES = [AttentionCapture, DDIMInversion]
