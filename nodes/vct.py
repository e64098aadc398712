"""The whole translation in one node."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..attention.alignment import WEIGHT_PLACES
from ..attention.control import SELF_LAYERS
from ..diffusion.concept import ConceptOptions
from ..diffusion.schedule import CONVENTIONS
from ..hosts.comfy import model as host
from ..hosts.comfy.vct import ComfyTranslator
from ..pipelines.vct import TranslateSettings, economical_pivots, learn, translate
from .common import CATEGORY, StepProgress, share
from .vct_control import self_layers_input

#: Conventions that come back down the levels that they climbed.
LEVELS = tuple(name for name in CONVENTIONS if name != "official")


class Translate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarTranslate",
            display_name="Exemplar Translate",
            category=CATEGORY,
            description="Draws pictures again in the style, the material or as the thing of one reference picture, "
            "their content "
            "kept (VCT): learns the reference's concept, inverts the pictures, finds their pivots and fuses both.",
            search_aliases=[
                "vct",
                "style transfer",
                "image translation",
                "one-shot",
                "concept transfer",
                "exemplar translation",
            ],
            inputs=[
                io.Model.Input("model", tooltip="Stable Diffusion 1.x, 2.x or SDXL."),
                io.Clip.Input("clip", tooltip="The model's CLIP."),
                io.Vae.Input("vae", tooltip="The model's VAE."),
                io.Image.Input("image", tooltip="One or more pictures whose content is kept."),
                io.Float.Input(
                    "cfg",
                    default=7.5,
                    min=1.0,
                    max=30.0,
                    step=0.5,
                    round=0.01,
                    tooltip="Low keeps to the picture, high gives more of the concept. The embedded model likes 4.",
                ),
                share(
                    "cross_ratio",
                    0.2,
                    "Share of the run, 0 to 1, in which what the picture's places are about is kept. Low "
                    "lets the concept in early, high keeps more of the content.",
                    advanced=False,
                ),
                share(
                    "self_ratio",
                    0.9,
                    "Share of the run, 0 to 1, in which the picture's layout is kept. Low lets shapes "
                    "change, high changes colors and texture only.",
                    advanced=False,
                ),
                io.Int.Input(
                    "updates",
                    default=500,
                    min=1,
                    max=100000,
                    tooltip="Optimizer steps of the concept. Few leave the word it "
                    "starts from, many copy the reference. Not used with a learned concept.",
                ),
                io.Int.Input(
                    "resolution",
                    default=512,
                    min=0,
                    max=4096,
                    step=8,
                    tooltip="Side of the square whose area the model works "
                    "at: its native size is best (512; SDXL 1024; embedded model 128). 0 is the pictures' own size.",
                ),
                io.Int.Input(
                    "steps",
                    default=50,
                    min=2,
                    max=100,
                    advanced=True,
                    tooltip="Steps up and down. Few are fast and bring the "
                    "picture back less well, many are truer. The embedded model likes 20.",
                ),
                io.Int.Input(
                    "pivot_iterations",
                    default=10,
                    min=0,
                    max=500,
                    advanced=True,
                    tooltip="Most updates a step of the "
                    "unconditional prompts that hold the picture under cfg. 0 does without and is much faster; 50 is "
                    "the "
                    "published value.",
                ),
                io.Int.Input(
                    "vectors",
                    default=3,
                    min=1,
                    max=64,
                    advanced=True,
                    tooltip="Of the concept. Few keep to the gist, many hold more detail.",
                ),
                io.String.Input(
                    "word",
                    default="picture",
                    advanced=True,
                    tooltip="Where the concept starts: a word for what the "
                    "reference shows. A close word is learned faster.",
                ),
                io.Float.Input(
                    "concept_weight",
                    default=0.5,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    round=0.001,
                    advanced=True,
                    tooltip="Factor on the concept's attention while cross_ratio lasts. 0 silences it there, 1 leaves "
                    "it, above 1 it is louder.",
                ),
                io.Combo.Input(
                    "weight_place",
                    options=list(WEIGHT_PLACES),
                    default=WEIGHT_PLACES[0],
                    advanced=True,
                    tooltip="intended weights the concept's own columns. official weights those one place early, as "
                    "the "
                    "published program does.",
                ),
                self_layers_input(),
                io.Combo.Input(
                    "convention",
                    options=list(LEVELS),
                    default=LEVELS[0],
                    advanced=True,
                    tooltip="consistent ends at no noise. diffusers ends at the smallest training noise, as the "
                    "published "
                    "program does.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=5e-4,
                    min=1e-6,
                    max=1.0,
                    step=1e-4,
                    round=False,
                    advanced=True,
                    tooltip="Of the concept, times four copies an update. Low learns slowly, high overshoots.",
                ),
                io.Float.Input(
                    "l1_weight",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.001,
                    advanced=True,
                    tooltip="Weight of the distance between predicted and true picture beside the noise error. 0 "
                    "leaves it "
                    "out, high favors composition over texture.",
                ),
                io.Int.Input(
                    "learning_seed",
                    default=0,
                    min=0,
                    max=2**32 - 1,
                    advanced=True,
                    tooltip="Of the noise that the concept is learned from. The same value repeats a run exactly.",
                ),
                io.Boolean.Input(
                    "gradient_checkpointing",
                    default=False,
                    advanced=True,
                    tooltip="Off is faster. On learns with much less memory and about a third more time.",
                ),
                io.Image.Input(
                    "reference",
                    optional=True,
                    tooltip="The picture whose concept is learned, or several of one thing or style.",
                ),
                io.Conditioning.Input(
                    "concept",
                    optional=True,
                    tooltip="A concept learned before, alone: from Concept Inversion, from "
                    "another Exemplar Translate, or as embedding:name through CLIP Text Encode. Then nothing is "
                    "learned.",
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="Where the pictures may change; outside it they stay as they were."
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="image", tooltip="The pictures with the concept in them, at their own size."
                ),
                io.Conditioning.Output(display_name="concept", tooltip="The learned concept, for other pictures."),
                io.Float.Output(
                    display_name="reconstruction_error",
                    tooltip="What the pivots leave of each picture's way back, the mean. "
                    "Below 0.1 is good; -1 without pivots.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        clip,
        vae,
        image,
        cfg,
        cross_ratio,
        self_ratio,
        updates,
        resolution,
        steps=50,
        pivot_iterations=10,
        vectors=3,
        word="picture",
        concept_weight=0.5,
        weight_place=WEIGHT_PLACES[0],
        self_layers=SELF_LAYERS[0],
        convention=LEVELS[0],
        learning_rate=5e-4,
        l1_weight=1.0,
        learning_seed=0,
        gradient_checkpointing=False,
        reference=None,
        concept=None,
        mask=None,
    ) -> io.NodeOutput:
        host.require_unet(model, "Exemplar Translate")
        if (reference is None) == (concept is None):
            raise ValueError(
                "Connect either a reference picture, whose concept is learned, or a concept that was learned before."
            )
        settings = TranslateSettings(
            steps=steps,
            convention=convention,
            guidance=cfg,
            cross_ratio=cross_ratio,
            self_ratio=self_ratio,
            concept_weight=concept_weight,
            weight_place=weight_place,
            self_layers=self_layers,
            vectors=vectors,
            word=word,
            seed=learning_seed,
            resolution=resolution,
            pivots=economical_pivots(cfg, pivot_iterations) if pivot_iterations and cfg > 1 else None,
            concept=ConceptOptions(updates=updates, learning_rate=learning_rate, l1_weight=l1_weight),
        )
        runner = ComfyTranslator(model, clip, vae, checkpointing=gradient_checkpointing)
        progress = TranslateProgress(model, settings, len(image), concept is None)
        runner.on_step = progress.step
        prompt = (
            learn(runner, reference, settings, progress.on_progress)
            if concept is None
            else runner.concept(concept, vectors)
        )
        result = translate(runner, image, prompt, settings, mask, progress.on_progress)
        errors = result.reconstruction_errors
        error = sum(errors) / len(errors) if errors else -1.0
        return io.NodeOutput(result.images, prompt.prompt, error)


class TranslateProgress:
    """One bar over all phases, with the clean estimate as preview; ends the run when the user cancels."""

    def __init__(self, model: Any, settings: TranslateSettings, pictures: int, learning: bool) -> None:
        self.shown = StepProgress(model, settings.calls(pictures, learning))
        self.iterations = settings.pivots.iterations if settings.pivots is not None else 0

    def step(self, denoised) -> None:
        """A step of an inversion or a fusion."""
        self.shown(denoised)

    def on_progress(self, phase: str, progress) -> None:
        """An update of the concept, or an iteration of a pivot."""
        if phase == "pivots" and progress.last:
            # the iterations that a step did not need
            self.shown.done += self.iterations - progress.iteration - 1
        self.shown(progress.denoised[:1])


NODES = [Translate]
