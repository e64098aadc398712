"""Pivot inversion: unconditional prompts under which a picture comes back through guided sampling."""

from __future__ import annotations

from comfy_api.latest import io

from ..color.chart import as_image, loss_chart
from ..diffusion.pivot import PivotOptions
from ..hosts.comfy import model as host
from ..hosts.comfy.vct_pivot import find_pivots, unconditional_schedule
from .common import CATEGORY_TRANSLATE, ChartProgress, Inversion, Pivots

#: Which of the released program's choices are kept; see ``diffusion.pivot.PivotOptions``.
VARIANTS = ("official", "economical")


class PivotInversion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarPivotInversion",
            display_name="Pivot Inversion",
            category=CATEGORY_TRANSLATE,
            description="Finds an unconditional prompt for every step, under which guided sampling brings an inverted "
            "picture back as it was (null-text inversion, pivot turning inversion of VCT).",
            search_aliases=["null text inversion", "pivot turning", "vct", "real image editing", "exemplar pivots"],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL that made the inversion."),
                io.Conditioning.Input("conditioning", tooltip="The prompt of the inversion, usually the empty one."),
                Inversion.Input(
                    "inversion",
                    tooltip="One picture, from DDIM Inversion with the convention consistent or diffusers; as deep as "
                    "the whole schedule for translation.",
                ),
                io.Float.Input(
                    "guidance",
                    default=7.5,
                    min=1.01,
                    max=30.0,
                    step=0.5,
                    round=0.01,
                    tooltip="The cfg that the picture must survive. Low is easy and steers little later; high steers "
                    "more and needs more iterations. Sample with the same value.",
                ),
                io.Int.Input(
                    "iterations",
                    default=50,
                    min=1,
                    max=500,
                    tooltip="Most updates a step. Low is fast and leaves an error; high comes closer. A step ends "
                    "early "
                    "when its loss is low enough.",
                ),
                io.Float.Input(
                    "stop_below",
                    default=1e-5,
                    min=0.0,
                    max=1.0,
                    step=1e-6,
                    round=False,
                    advanced=True,
                    tooltip="A step ends when its loss is below this plus 0.00002 for every step taken. High is fast; "
                    "0 "
                    "takes nearly all iterations.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=0.01,
                    min=1e-5,
                    max=1.0,
                    step=0.001,
                    round=False,
                    advanced=True,
                    tooltip="Of the first step; it falls by a hundredth of itself a step. Low converges slowly, high "
                    "overshoots.",
                ),
                io.Combo.Input(
                    "variant",
                    options=list(VARIANTS),
                    default=VARIANTS[0],
                    advanced=True,
                    tooltip="official repeats the released program: the update behind a loss that ends a step is kept, "
                    "and the latent always advances under guidance 7.5. economical looks first: a good step costs no "
                    "backward pass, and the latent advances under your guidance.",
                ),
                io.Boolean.Input(
                    "gradient_checkpointing",
                    default=False,
                    advanced=True,
                    tooltip="Off is faster. On computes activations twice instead of keeping them: much less memory, "
                    "about a third more time.",
                ),
            ],
            outputs=[
                Pivots.Output(display_name="pivots", tooltip="For Concept Fusion."),
                io.Conditioning.Output(
                    display_name="unconditional",
                    tooltip="Negative prompt, scheduled over the steps, for any sampler.",
                ),
                io.Image.Output(display_name="losses", tooltip="Loss of every iteration, step by step."),
                io.Float.Output(
                    display_name="reconstruction_error",
                    tooltip="Difference of the picture that comes back, relative to its spread. Below 0.1 is good.",
                ),
                io.Latent.Output(display_name="reconstructed", tooltip="The picture that comes back, to decode."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        conditioning,
        inversion,
        guidance,
        iterations,
        stop_below=1e-5,
        learning_rate=0.01,
        variant=VARIANTS[0],
        gradient_checkpointing=False,
    ) -> io.NodeOutput:
        host.require_unet(model, "Pivot Inversion")
        official = variant == "official"
        options = PivotOptions(
            guidance=guidance,
            advance_guidance=7.5 if official else None,
            iterations=iterations,
            learning_rate=learning_rate,
            stop_below=stop_below,
            keep_last_update=official,
        )
        steps = len(inversion.plan.sigmas) - 1
        losses: list[float] = []
        breaks: list[int] = []

        def chart():
            return loss_chart(
                f"pivot inversion, step {min(len(breaks) + 1, steps)} of {steps}", {"loss": losses}, breaks=breaks
            )

        bar = ChartProgress(steps * iterations, chart)
        bar(0)

        def on_iteration(progress) -> None:
            losses.append(progress.loss)
            if progress.last:
                breaks.append(len(losses))
            bar(
                (progress.step + 1) * iterations
                if progress.last
                else progress.step * iterations + progress.iteration + 1
            )

        pivots = find_pivots(model, conditioning, inversion, options, on_iteration, gradient_checkpointing)
        back = model.model.process_latent_out(inversion.plan.to_clean(pivots.trajectory[-1]))
        return io.NodeOutput(
            pivots,
            unconditional_schedule(model, pivots, conditioning),
            as_image(chart()),
            pivots.reconstruction_error,
            {"samples": back},
        )


NODES = [PivotInversion]
