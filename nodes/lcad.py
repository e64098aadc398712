"""Color from words: L-CAD's loader, its conditions, and its decoder. Any sampler node stands between them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..hosts.comfy.folders import EMBEDDED, LCAD
from ..pipelines.lcad import BatchSettings, DecodeSettings, LoadSettings, finish
from .common import CATEGORY, warn_if_colored
from .inputs import choice, expect, latent_samples, picture
from .widgets import later_widgets, resolved, title, widgets

if TYPE_CHECKING:
    from torch import Tensor

    from ..hosts.comfy.lcad import ComfyLCADVAE

log = logging.getLogger(__name__)

#: L-CAD's gray encoder and decoder under ComfyUI's model manager (``hosts.comfy.lcad.ComfyLCADVAE``).
LCADVae = io.Custom("LCAD_VAE")


class LoadLCAD(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarLoadLCAD",
            display_name="Load L-CAD",
            category=CATEGORY,
            description="Loads an L-CAD checkpoint, which colors gray pictures by words. Its three parts are a model "
            "that reads the gray picture beside the noise, a text encoder, and an autoencoder that keeps the gray "
            "picture's structure.",
            search_aliases=["l-cad", "lcad", "text colorization", "colorize by words", "language colorization"],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=LCAD.choices(),
                    default=EMBEDDED,
                    tooltip="L-CAD's checkpoint: a file of models/lcad or, if it has none of that name, of "
                    "models/checkpoints. embedded is a tiny one that comes with the pack and knows drawings of a few "
                    "dozen things by name.",
                ),
                *widgets(LoadSettings, "attention"),
                *later_widgets(LoadSettings),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="A Stable Diffusion UNet that reads the gray picture beside the noise. KSampler, LoRA and "
                    "guiders work as usual; its prompts must come from L-CAD Condition.",
                ),
                io.Clip.Output(display_name="clip", tooltip="The text encoder, for CLIP Text Encode."),
                LCADVae.Output(
                    display_name="lcad_vae",
                    tooltip="Gray encoder and guided decoder, for L-CAD Condition and L-CAD Decode. ComfyUI loads them "
                    "when they are needed, offloads them and counts their memory.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, model_name: str | None = None) -> bool | str:
        return LCAD.check(model_name)

    @classmethod
    def execute(cls, model_name: str, **values: Any) -> io.NodeOutput:
        from ..hosts.comfy.lcad import load

        settings = resolved(cls, LoadSettings, {}, values)
        return io.NodeOutput(*choice(cls, "model_name", model_name, lambda name: load(name, settings)))


class LCADCondition(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarLCADCondition",
            display_name="L-CAD Condition",
            category=CATEGORY,
            description="Gives prompts the gray picture that they describe, and makes the empty latent of its size. "
            "The picture is encoded once, not at every step.",
            search_aliases=["l-cad", "lcad", "text colorization", "gray condition", "colorize by words"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Conditioning.Input(
                    "positive",
                    tooltip="What is where in which color, encoded: 'a green apple, a yellow bell'. Partly or not at "
                    "all described is fine: the rest is the model's choice.",
                ),
                io.Conditioning.Input("negative", tooltip="Usually the empty prompt, encoded."),
                io.Image.Input(
                    "image",
                    tooltip="One or more gray pictures of one size. Of a colored picture only the lightness is used.",
                ),
                LCADVae.Input("lcad_vae", tooltip="From Load L-CAD."),
                *widgets(BatchSettings, "resolution", "variations", "shape"),
                *later_widgets(BatchSettings),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="For the sampler."),
                io.Conditioning.Output(display_name="negative", tooltip="For the sampler."),
                io.Latent.Output(
                    display_name="latent",
                    tooltip="Empty, of the right size: every picture, then every picture again for the next variation. "
                    "It carries the encoded picture to L-CAD Decode.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, positive: list, negative: list, image: Tensor, lcad_vae: ComfyLCADVAE, **values: Any
    ) -> io.NodeOutput:
        from ..hosts.comfy.conditioning import check_conditioning
        from ..hosts.comfy.lcad import with_gray

        expect(cls, lcad_vae=lcad_vae)
        settings = resolved(cls, BatchSettings, lcad_vae.recommended, values)
        for name, prompt in (("positive", positive), ("negative", negative)):
            check_conditioning(prompt, title(cls), name, whole_picture=False, always_active=False)
        image = picture(cls, image, "image")
        warn_if_colored(image, "image")
        gray, latent = lcad_vae.conditions(image, settings)
        return io.NodeOutput(with_gray(positive, gray.features), with_gray(negative, gray.features), latent)


class LCADDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarLCADDecode",
            display_name="L-CAD Decode",
            category=CATEGORY,
            description="Decodes a latent with the structure of the gray picture, at the picture's own size.",
            search_aliases=["l-cad", "lcad", "luminance guided decode", "structure", "vae decode", "keep structure"],
            inputs=[
                io.Latent.Input("latent", tooltip="From the sampler."),
                io.Image.Input(
                    "image",
                    tooltip="The gray pictures that went into L-CAD Condition. Latent i belongs to picture i, and from "
                    "the first one on again if there are fewer pictures.",
                ),
                LCADVae.Input("lcad_vae", tooltip="From Load L-CAD."),
                *widgets(DecodeSettings, "exact_luminance", "upsampling", "gamut"),
                *later_widgets(DecodeSettings),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The pictures in color, at the gray ones' size.")],
        )

    @classmethod
    def execute(cls, latent: dict[str, Any], image: Tensor, lcad_vae: ComfyLCADVAE, **values: Any) -> io.NodeOutput:
        expect(cls, lcad_vae=lcad_vae)
        settings = resolved(cls, DecodeSettings, {}, values)
        samples = latent_samples(cls, latent, "latent")
        image = picture(cls, image, "image")
        if len(samples) % len(image):
            raise ValueError(
                f"{title(cls)}: image: found {len(image)} picture(s) for {len(samples)} latent(s), expected as many "
                "latents, or a multiple; use the pictures that went into L-CAD Condition."
            )
        warn_if_colored(image, "image")
        decoded = lcad_vae.decode(samples, lcad_vae.gray_for(latent, image))
        return io.NodeOutput(finish(decoded, image, settings))


NODES = [LoadLCAD, LCADCondition, LCADDecode]
