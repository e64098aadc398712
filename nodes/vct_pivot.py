"""Pivot inversion: unconditional prompts under which a picture comes back through guided sampling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..color.chart import as_image, loss_chart
from ..pipelines.vct_pivot import PivotSettings
from .common import CATEGORY_TRANSLATE, ChartProgress, Inversion, Pivots, clip_input, conditioning_input
from .inputs import expect
from .widgets import later_widgets, resolved, title, widgets

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..diffusion.inversion import Inversion as Inverted
    from ..diffusion.pivot import PivotProgress


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
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The MODEL that made the inversion: Stable Diffusion 1.x, 2.x, SDXL, or the embedded "
                    "model. LoRA counts.",
                ),
                conditioning_input(
                    "The prompt of the inversion, usually the empty one, as the released program has it. A real "
                    "prompt gives null-text inversion."
                ),
                Inversion.Input(
                    "inversion",
                    tooltip="One picture, inverted with consistent or diffusers; as deep as the whole schedule for "
                    "translation.",
                ),
                *widgets(
                    PivotSettings,
                    "cfg",
                    "iterations",
                    "stop_below",
                    "learning_rate",
                    "variant",
                    "gradient_checkpointing",
                ),
                clip_input(),
                *later_widgets(PivotSettings),
            ],
            outputs=[
                Pivots.Output(
                    display_name="pivots",
                    tooltip="For Concept Fusion: the contexts, and the latents that guided sampling passes with them.",
                ),
                io.Conditioning.Output(
                    display_name="unconditional",
                    tooltip="The contexts as a scheduled negative prompt: each is in force around its own step only. "
                    "Any sampler can read it; one that visits other levels finds the nearest context.",
                ),
                io.Image.Output(
                    display_name="losses",
                    tooltip="A chart: loss of every iteration, logarithmic, interrupted between steps.",
                ),
                io.Float.Output(
                    display_name="reconstruction_error",
                    tooltip="Root mean square difference of the latent that comes back, relative to the picture's "
                    "spread. Below 0.1 is good.",
                ),
                io.Latent.Output(display_name="reconstructed", tooltip="The latent that comes back, to decode."),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, inversion: Inverted, conditioning: list | None = None, clip: Any = None, **values: Any
    ) -> io.NodeOutput:
        from ..hosts.comfy.conditioning import check_conditioning
        from ..hosts.comfy.empty_prompt import need_prompt
        from ..hosts.comfy.families.found import require_network
        from ..hosts.comfy.fits import check_inversion
        from ..hosts.comfy.recommended import recommended
        from ..hosts.comfy.vct_pivot import find_pivots, unconditional_schedule

        expect(cls, model=model, inversion=inversion, clip=clip)
        require_network(model, title(cls))
        settings = resolved(cls, PivotSettings, recommended(model, "vct"), values)
        check_inversion(inversion, model, title(cls))
        conditioning = need_prompt(conditioning, clip, model, title(cls))
        check_conditioning(conditioning, title(cls), model=model, levels=inversion.plan.kept_sigmas)
        progress = PivotChart(len(inversion.plan.sigmas) - 1, settings.search.iterations)
        pivots, _ = find_pivots(
            model, conditioning, inversion, settings.options, progress.on_iteration, settings.gradient_checkpointing
        )
        back = model.model.process_latent_out(inversion.plan.to_clean(pivots.trajectory[-1]))
        return io.NodeOutput(
            pivots,
            unconditional_schedule(model, pivots, conditioning),
            as_image(progress.chart()),
            pivots.reconstruction_error,
            {"samples": back},
        )


class PivotChart:
    """A progress bar whose preview is the losses so far, step by step; ends the run when the user cancels."""

    def __init__(self, steps: int, iterations: int) -> None:
        self.steps, self.iterations = steps, iterations
        self.losses: list[float] = []
        self.breaks: list[int] = []
        self.bar = ChartProgress(steps * iterations, self.chart)
        self.bar(0)

    def chart(self) -> Image:
        """The losses, interrupted between steps."""
        step = min(len(self.breaks) + 1, self.steps)
        title = f"pivot inversion, step {step} of {self.steps}"
        return loss_chart(title, {"loss": self.losses}, breaks=self.breaks)

    def on_iteration(self, progress: PivotProgress) -> None:
        """One more loss; a step that ends early is done with all its iterations."""
        self.losses.append(progress.loss)
        if progress.last:
            self.breaks.append(len(self.losses))
        done = self.iterations if progress.last else progress.iteration + 1
        self.bar(progress.step * self.iterations + done)


NODES = [PivotInversion]
