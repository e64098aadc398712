"""Attention capture and DDIM inversion."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..attention.bank import FeatureBank
from ..attention.capture import Capture, CaptureSpec, CaptureTarget
from ..attention.layers import select_layers
from ..diffusion import inversion as inversions
from ..diffusion.schedule import CONVENTIONS, inversion_plan
from ..hosts.comfy import model as host
from ..hosts.comfy.host import ComfyHost
from .common import (
    CATEGORY_STAGES,
    PRECISIONS,
    Inversion,
    StepProgress,
    depth_within_steps,
    keep_device,
    latent_samples,
)

#: What each role needs of a picture's attention; everything serves when in doubt.
KEEP = {
    "everything (q, k, v)": "qkv",
    "input (q, k)": "qk",
    "reference (k, v)": "kv",
    "gray reference (k)": "k",
}

ATTACHMENT = "exemplar.capture"


class AttentionCapture(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarAttentionCapture",
            display_name="Attention Capture",
            category=CATEGORY_STAGES,
            description="Marks which attention features a DDIM Inversion with this MODEL keeps. Changes nothing else.",
            search_aliases=["attention features", "keep attention", "q k v", "exemplar capture"],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL that DDIM Inversion will use."),
                io.String.Input(
                    "layers",
                    default="color",
                    tooltip="A preset (color, fine, coarse, decoder, encoder, middle, all) or ranges such as "
                    "output.6-11. Fewer layers take less memory; color is what color injection needs.",
                ),
                io.Combo.Input(
                    "keep",
                    options=list(KEEP),
                    default="everything (q, k, v)",
                    tooltip="Everything works for every role; choosing the picture's role saves up to two thirds of "
                    "the memory.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="model",
                    advanced=True,
                    tooltip="How kept numbers are stored. float16 halves the memory of a float32 model at no visible "
                    "cost; model keeps the model's own precision.",
                ),
                io.Combo.Input(
                    "keep_on",
                    options=["with the model", "cpu"],
                    default="with the model",
                    advanced=True,
                    tooltip="cpu frees GPU memory and costs a copy a layer and step; with the model is faster.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="For DDIM Inversion.")],
        )

    @classmethod
    def execute(cls, model, layers, keep, precision="model", keep_on="with the model") -> io.NodeOutput:
        host.require_unet(model, "Attention Capture")
        chosen = select_layers(layers, host.attention_layers(model))
        marked = model.clone()
        spec = CaptureSpec({i.layer: KEEP[keep] for i in chosen}, PRECISIONS[precision], keep_device(keep_on))
        marked.set_attachments(ATTACHMENT, spec)
        return io.NodeOutput(marked)


class DDIMInversion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarDDIMInversion",
            display_name="DDIM Inversion",
            category=CATEGORY_STAGES,
            description="Finds the noise from which the model would draw this picture, and keeps the attention "
            "features that Attention Capture asked for on the way.",
            search_aliases=["ddim inversion", "invert latent", "unsample", "noise inversion", "exemplar inversion"],
            inputs=[
                io.Model.Input("model", tooltip="A Stable Diffusion 1.x, 2.x or SDXL model."),
                io.Conditioning.Input("conditioning", tooltip="Usually the empty prompt."),
                io.Latent.Input("latent", tooltip="The picture, encoded. A batch is inverted together."),
                io.Int.Input(
                    "depth",
                    default=5,
                    min=1,
                    max=999,
                    tooltip="How many steps to climb. Low stays close to the picture; high gives sampling more "
                    "freedom to change it. Colorization wants 5 of 50.",
                ),
                io.Int.Input(
                    "steps",
                    default=50,
                    min=1,
                    max=999,
                    tooltip="Length of the whole schedule, of which the lowest depth steps are used. More steps make "
                    "each one smaller and the inversion truer.",
                ),
                io.Combo.Input(
                    "convention",
                    options=list(CONVENTIONS),
                    default=CONVENTIONS[0],
                    advanced=True,
                    tooltip="consistent comes back down the levels that it went up. official climbs one step further "
                    "and reads the result two steps lower, as the published program does (colorization). diffusers is "
                    "consistent down to the smallest training sigma instead of 0: translation's published program.",
                ),
                io.Int.Input(
                    "refinements",
                    default=0,
                    min=0,
                    max=10,
                    advanced=True,
                    tooltip="Fixed-point iterations a step. 0 is plain DDIM inversion; each one costs a model call a "
                    "step and brings the round trip closer to exact. Needs the consistent convention.",
                ),
                io.Boolean.Input(
                    "measure_round_trip",
                    default=True,
                    advanced=True,
                    tooltip="Sample back once to measure how well the picture returns; costs depth model calls. "
                    "When off the error is reported as -1.",
                ),
            ],
            outputs=[
                Inversion.Output(display_name="inversion", tooltip="Trajectory and kept attention features."),
                io.Latent.Output(
                    display_name="noised", tooltip="Start of the way back: sample it without added noise."
                ),
                io.Sigmas.Output(display_name="sigmas", tooltip="The way back, for SamplerCustomAdvanced."),
                io.Float.Output(
                    display_name="round_trip_error",
                    tooltip="Difference after coming back, relative to the picture's spread. Below 0.1 is good.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, depth=None, steps=None) -> bool | str:
        return depth_within_steps(depth, steps)

    @classmethod
    def execute(
        cls,
        model,
        conditioning,
        latent,
        depth,
        steps,
        convention=CONVENTIONS[0],
        refinements=0,
        measure_round_trip=True,
    ) -> io.NodeOutput:
        host.require_unet(model, "DDIM Inversion")
        plan = inversion_plan(host.sigma_table(model), steps, depth, convention)
        if refinements and convention == "official":
            raise ValueError("Refinements need the consistent convention; the official one reads other levels.")
        samples = latent_samples(latent, "latent")
        start = model.model.process_latent_in(samples)

        calls = len(plan.reads) * (1 + refinements) + (depth if measure_round_trip else 0)
        runner = ComfyHost(model, conditioning, on_step=StepProgress(model, calls))
        spec = model.get_attachment(ATTACHMENT)
        target = CaptureTarget(spec) if spec is not None else None
        capture = Capture([target], plan.kept_sigmas) if target is not None else None
        trajectory = runner.invert(start, plan, capture, refinements)

        bank = target.bank if target is not None else FeatureBank()
        found = inversions.Inversion(plan, trajectory, bank, runner.fingerprint, runner.layers)
        error = -1.0
        if measure_round_trip:
            back = plan.to_clean(runner.sample(found.noised(), plan, None, (), 1.0))
            error = inversions.round_trip_error(start, back)
        noised = {**latent, "samples": model.model.process_latent_out(found.noised())}
        return io.NodeOutput(found, noised, torch.tensor(plan.sigmas), error)


NODES = [AttentionCapture, DDIMInversion]
