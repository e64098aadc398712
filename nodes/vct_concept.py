"""Concept inversion: a reference picture's concept as an embedding file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io

from ..color.chart import as_image
from ..files.embeddings import ConceptFile
from ..pipelines.vct_concept import (
    ConceptInversionSettings,
    ConceptRun,
    earlier_concept,
    provenance,
    training_pictures,
)
from .common import CATEGORY_TRANSLATE, ChartProgress
from .inputs import expect, picture
from .widgets import later_widgets, resolved, title, widgets

if TYPE_CHECKING:
    from torch import Tensor


class ConceptInversion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarConceptInversion",
            display_name="Concept Inversion",
            category=CATEGORY_TRANSLATE,
            description="Learns what a reference picture shows as a few word vectors, saved as an embedding that any "
            "prompt can name (textual inversion, multi-concept inversion of VCT). Nothing else is trained.",
            search_aliases=[
                "textual inversion",
                "train embedding",
                "vct",
                "multi-concept inversion",
                "one-shot concept",
            ],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input("model", tooltip="Stable Diffusion 1.x, 2.x, SDXL, or the embedded model."),
                io.Clip.Input("clip", tooltip="Its text encoder."),
                io.Vae.Input("vae", tooltip="Its VAE."),
                io.Image.Input("reference", tooltip="The concept: one picture, or several of the same thing or style."),
                *widgets(
                    ConceptInversionSettings,
                    "name",
                    "word",
                    "vectors",
                    "updates",
                    "resolution",
                    "learning_rate",
                    "accumulation",
                    "l1_weight",
                    "weight_decay",
                    "fit",
                    "mirror",
                    "seed",
                    "sample_every",
                    "rows",
                    "gradient_checkpointing",
                    "when_the_file_exists",
                ),
                *later_widgets(ConceptInversionSettings),
            ],
            outputs=[
                io.Conditioning.Output(display_name="conditioning", tooltip="The concept as a prompt of its own."),
                io.String.Output(display_name="prompt", tooltip="The text embedding:name, to put into any prompt."),
                io.Image.Output(
                    display_name="losses",
                    tooltip="A chart: loss of every update, logarithmic. Single updates vary much; the level counts.",
                ),
                io.Image.Output(
                    display_name="samples",
                    tooltip="What the model drew on the way, first to last, always from the same noise, with cfg 7.5.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, name: str | None = None) -> bool | str:
        from ..hosts.comfy import embeddings

        return embeddings.check(name)

    @classmethod
    def execute(cls, model: Any, clip: Any, vae: Any, reference: Tensor, **values: Any) -> io.NodeOutput:
        from ..hosts.comfy import embeddings
        from ..hosts.comfy.families.found import require_network
        from ..hosts.comfy.fits import check_vae
        from ..hosts.comfy.model import fingerprint
        from ..hosts.comfy.recommended import recommended
        from ..hosts.comfy.vct_concept import encode_pictures, learning

        expect(cls, model=model, clip=clip, vae=vae)
        require_network(model, title(cls))
        check_vae(vae, model, title(cls))
        settings = resolved(cls, ConceptInversionSettings, recommended(model, "vct"), values)
        reference = picture(cls, reference, "reference")
        place = embeddings.place(settings.name)
        pictures = training_pictures(reference, settings, vae.spacial_compression_encode())
        origin = provenance(settings, pictures, fingerprint(model))
        earlier = earlier_concept(place, settings, origin)
        latents = encode_pictures(model, vae, pictures)
        with learning(model, clip, latents, settings) as learner:
            start = earlier or ConceptFile(learner.text.names, learner.start(), origin)
            run = ConceptRun(place, start, settings)
            bar = ChartProgress(settings.concept.updates, run.chart)
            run.learn(learner.learn, lambda state: learner.picture(state, vae), lambda run: bar(run.updates))
            losses = as_image(run.losses_chart())
        conditioning = learner.conditioning(clip, run.concept.state)
        return io.NodeOutput(conditioning, f"embedding:{settings.name}", losses, torch.cat(run.samples))


NODES = [ConceptInversion]
