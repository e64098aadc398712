"""Color from words: L-CAD's loader, its conditions, and its decoder. Any sampler node stands between them."""

from __future__ import annotations

import logging

import torch
from comfy_api.latest import io

from ..color import as_picture
from ..hosts.comfy import lcad as host
from ..hosts.comfy.folders import EMBEDDED, LCAD
from ..hosts.comfy.lcad_instances import reuse_logits
from ..pipelines.lcad import SHAPES, finish, prepare
from .common import CATEGORY, LCADVae, latent_samples, share, warn_if_colored

log = logging.getLogger(__name__)

ATTENTIONS = ("fresh", "official")


class LoadLCAD(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarLoadLCAD",
            display_name="Load L-CAD",
            category=CATEGORY,
            description="Loads an L-CAD checkpoint, which colors gray pictures by words. Its three parts are a model "
            "that reads "
            "the gray picture beside the noise, a text encoder, and an autoencoder that keeps the gray picture's "
            "structure.",
            search_aliases=["l-cad", "lcad", "text colorization", "colorize by words", "language colorization"],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=LCAD.choices(),
                    default=EMBEDDED,
                    tooltip="L-CAD's checkpoint in models/lcad or models/checkpoints. embedded is a tiny one that "
                    "comes "
                    "with the pack, knows drawings of a few dozen things by name and wants a resolution of 128.",
                ),
                io.Combo.Input(
                    "attention",
                    options=list(ATTENTIONS),
                    default=ATTENTIONS[0],
                    advanced=True,
                    tooltip="fresh lets every step attend for itself. official uses the attention of each odd step "
                    "again in "
                    "the step after it, as the published program does: for comparing with its results.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="For any sampler. Its prompts must go through L-CAD Condition."
                ),
                io.Clip.Output(display_name="clip", tooltip="For CLIP Text Encode."),
                LCADVae.Output(display_name="lcad_vae", tooltip="For L-CAD Condition and L-CAD Decode."),
            ],
        )

    @classmethod
    def validate_inputs(cls, model_name=None) -> bool | str:
        return LCAD.check(model_name)

    @classmethod
    def execute(cls, model_name, attention=ATTENTIONS[0]) -> io.NodeOutput:
        model, clip, lcad_vae = host.load(model_name)
        return io.NodeOutput(reuse_logits(model) if attention == ATTENTIONS[1] else model, clip, lcad_vae)


class LCADCondition(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarLCADCondition",
            display_name="L-CAD Condition",
            category=CATEGORY,
            description="Gives prompts the gray picture that they describe, and makes the empty latent of its size. "
            "The picture is "
            "encoded once, not at every step.",
            search_aliases=["l-cad", "lcad", "text colorization", "gray condition", "colorize by words"],
            inputs=[
                io.Conditioning.Input(
                    "positive",
                    tooltip="What is where in which color: 'a green apple, a yellow bell'. Partly or "
                    "not at all described is fine: the rest is the model's choice.",
                ),
                io.Conditioning.Input("negative", tooltip="Usually the empty prompt, encoded."),
                io.Image.Input(
                    "image", tooltip="One or more gray pictures of one size; of colored ones only lightness is used."
                ),
                LCADVae.Input("lcad_vae", tooltip="From Load L-CAD."),
                io.Int.Input(
                    "resolution",
                    default=256,
                    min=0,
                    max=2048,
                    step=16,
                    tooltip="Side of the square whose area the networks work at. Low: fast, coarse areas of color. "
                    "High: "
                    "slow, and far above what the model was trained at (256; the embedded one 128) colors get patchy. "
                    "0 "
                    "is the picture's own size.",
                ),
                io.Int.Input(
                    "variations",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="How many colorings of each picture to sample at once; more take more memory.",
                ),
                io.Combo.Input(
                    "shape",
                    options=list(SHAPES),
                    default=SHAPES[0],
                    advanced=True,
                    tooltip="aspect keeps the picture's proportions; official square squeezes it into a square, in 8 "
                    "bits, as the published program does.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="For the sampler."),
                io.Conditioning.Output(display_name="negative", tooltip="For the sampler."),
                io.Latent.Output(
                    display_name="latent",
                    tooltip="Empty, of the right size. It carries the encoded picture to L-CAD Decode.",
                ),
            ],
        )

    @classmethod
    def execute(cls, positive, negative, image, lcad_vae, resolution, variations, shape=SHAPES[0]) -> io.NodeOutput:
        image = as_picture(image, "image")
        warn_if_colored(image, "image")
        prepared = prepare(image, resolution, shape, lcad_vae.multiple, lcad_vae.factor)
        gray = lcad_vae.encode(prepared, image)
        height, width = gray.features.shape[-2:]
        samples = torch.zeros(len(image) * variations, lcad_vae.channels, height, width, device=gray.features.device)
        log.info("L-CAD works at %d x %d pixels.", prepared.shape[2], prepared.shape[1])
        return io.NodeOutput(
            host.with_gray(positive, gray.features),
            host.with_gray(negative, gray.features),
            {"samples": samples, host.PICTURE_KEY: gray},
        )


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
                io.Image.Input("image", tooltip="The gray pictures that went into L-CAD Condition."),
                LCADVae.Input("lcad_vae", tooltip="From Load L-CAD."),
                share(
                    "exact_luminance",
                    1.0,
                    "0 takes the decoder's picture, with its small errors of lightness; 1 puts its colors "
                    "on exactly the gray picture's lightness, at full sharpness; between mixes the two.",
                    advanced=False,
                ),
                io.Combo.Input(
                    "upsampling",
                    options=["guided", "smooth"],
                    default="guided",
                    advanced=True,
                    tooltip="How colors come to a larger picture's size: guided follows its edges, smooth blurs across "
                    "them. Only for exact luminance.",
                ),
                io.Combo.Input(
                    "gamut",
                    options=["fit", "clip"],
                    default="fit",
                    advanced=True,
                    tooltip="Colors that no screen can show: fit makes them paler at the same lightness and hue; clip "
                    "cuts each channel, which changes lightness. Only for exact luminance.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The pictures in color, at the gray ones' size.")],
        )

    @classmethod
    def execute(cls, latent, image, lcad_vae, exact_luminance, upsampling="guided", gamut="fit") -> io.NodeOutput:
        samples = latent_samples(latent, "latent")
        image = as_picture(image, "image")
        warn_if_colored(image, "image")
        decoded = lcad_vae.decode(samples, lcad_vae.gray_for(latent, image))
        return io.NodeOutput(finish(decoded, image, exact_luminance, upsampling=upsampling, gamut=gamut))


NODES = [LoadLCAD, LCADCondition, LCADDecode]
