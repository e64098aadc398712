"""The whole translation in one node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from comfy_api.latest import io

from ..pipelines.vct import TranslateSettings, learn, translate
from .common import CATEGORY, StepProgress
from .inputs import expect, optional_mask, picture
from .widgets import later_widgets, resolved, title, widgets

if TYPE_CHECKING:
    from torch import Tensor

    from ..diffusion.concept import ConceptProgress
    from ..diffusion.pivot import PivotProgress


class Translate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarTranslate",
            display_name="Exemplar Translate",
            category=CATEGORY,
            description="Draws pictures again in the style, the material or as the thing of one reference picture, "
            "their content kept (VCT): learns the reference's concept, inverts the pictures, finds their pivots and "
            "fuses both.",
            search_aliases=[
                "vct",
                "style transfer",
                "image translation",
                "one-shot",
                "concept transfer",
                "exemplar translation",
            ],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input("model", tooltip="Stable Diffusion 1.x, 2.x or SDXL, or the embedded model."),
                io.Clip.Input("clip", tooltip="The model's CLIP."),
                io.Vae.Input("vae", tooltip="The model's VAE."),
                io.Image.Input("image", tooltip="One or more pictures whose content is kept."),
                *widgets(
                    TranslateSettings,
                    "cfg",
                    "cross_ratio",
                    "self_ratio",
                    "updates",
                    "resolution",
                    "steps",
                    "pivot_iterations",
                ),
                *widgets(TranslateSettings, "vectors", "word", advanced=True),
                *widgets(
                    TranslateSettings,
                    "concept_weight",
                    "weight_place",
                    "self_layers",
                    "convention",
                    "learning_rate",
                    "l1_weight",
                    "seed",
                    "gradient_checkpointing",
                ),
                io.Image.Input(
                    "reference",
                    optional=True,
                    tooltip="The picture whose concept is learned, or several of one thing or style. Connect this or "
                    "concept.",
                ),
                io.Conditioning.Input(
                    "concept",
                    optional=True,
                    tooltip="A concept learned before, alone: from Concept Inversion, from another Exemplar Translate, "
                    "or as embedding:name through CLIP Text Encode. Then nothing is learned; vectors is its number of "
                    "vectors.",
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="Where the pictures may change; outside it they stay as they were."
                ),
                *later_widgets(TranslateSettings),
            ],
            outputs=[
                io.Image.Output(
                    display_name="image", tooltip="The pictures with the concept in them, at their own size."
                ),
                io.Conditioning.Output(
                    display_name="concept",
                    tooltip="The concept, for other pictures; the input itself when one was given.",
                ),
                io.Float.Output(
                    display_name="reconstruction_error",
                    tooltip="What the pivots leave of each picture's way back, the mean. Below 0.1 is good; -1 without "
                    "pivots.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        image: Tensor,
        reference: Tensor | None = None,
        concept: list | None = None,
        mask: Tensor | None = None,
        **values: Any,
    ) -> io.NodeOutput:
        from ..hosts.comfy.conditioning import check_conditioning, inversion_levels
        from ..hosts.comfy.families.found import require_network
        from ..hosts.comfy.fits import check_vae
        from ..hosts.comfy.recommended import recommended
        from ..hosts.comfy.vct import ComfyTranslator

        expect(cls, model=model, clip=clip, vae=vae)
        require_network(model, title(cls))
        check_vae(vae, model, title(cls))
        if (reference is None) == (concept is None):
            raise ValueError(
                f"{title(cls)}: reference: found {'nothing' if reference is None else 'a concept beside it'}, expected "
                "either a reference picture, whose concept is learned, or a concept that was learned before; connect "
                "one of them."
            )
        settings = resolved(cls, TranslateSettings, recommended(model, "vct"), values)
        levels = inversion_levels(model, settings.steps, settings.steps, settings.convention)
        if concept is not None:
            check_conditioning(concept, title(cls), "concept", model=model, levels=levels, pictures=1)
        image = picture(cls, image, "image")
        mask = optional_mask(cls, mask, "mask", len(image))  # learning comes first, and takes minutes
        progress = TranslateProgress(model, settings, len(image), learning=concept is None)
        host = ComfyTranslator(model, clip, vae, on_step=progress.on_step)
        if concept is None:
            prompt = learn(host, picture(cls, reference, "reference"), settings, progress.on_progress)
        else:
            prompt = host.concept(concept, settings.vectors)
        result = translate(host, image, prompt, settings, mask, progress.on_progress, progress.bar.expect)
        errors = result.reconstruction_errors
        return io.NodeOutput(result.images, prompt.prompt, sum(errors) / len(errors) if errors else -1.0)


class TranslateProgress:
    """One bar over all phases, with the clean estimate as preview; ends the run when the user cancels."""

    def __init__(self, model: Any, settings: TranslateSettings, pictures: int, *, learning: bool) -> None:
        self.bar = StepProgress(model, settings.calls(pictures, learning))
        self.iterations = settings.pivot_iterations

    def on_step(self, denoised: Tensor) -> None:
        """A step of an inversion or a fusion."""
        self.bar(denoised)

    def on_progress(self, phase: Literal["concept", "pivots"], progress: ConceptProgress | PivotProgress) -> None:
        """An update of the concept, or an iteration of a pivot."""
        if phase == "pivots" and progress.last:  # the iterations that a step did not need are done as well
            self.bar.done += self.iterations - progress.iteration - 1
        self.bar(progress.denoised[:1])


NODES = [Translate]
