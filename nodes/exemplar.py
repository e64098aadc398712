"""The whole flow in one node."""

from __future__ import annotations

import logging

import comfy.model_management
import torch
from comfy_api.latest import io

from ..attention.dual import MIXES, DualAttentionSettings
from ..color import as_picture
from ..diffusion.schedule import CONVENTIONS
from ..hosts.comfy import model as host
from ..hosts.comfy.host import ComfyHost
from ..pipelines.confidence import full_size
from ..pipelines.exemplar import ColorizeSettings, ReferencePair, check_batches, colorize, one_working_size
from .common import (
    CATEGORY,
    PRECISIONS,
    Inversion,
    StepProgress,
    depth_within_steps,
    keep_device,
    share,
    warn_if_colored,
)

log = logging.getLogger(__name__)


class Colorize(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarColorize",
            display_name="Exemplar Colorize",
            category=CATEGORY,
            description="Colors gray pictures by a color reference, with the attention of a Stable Diffusion model "
            "(Kosugi 2025). The result has the input's own size and lightness.",
            search_aliases=[
                "colorize",
                "colourise",
                "reference colorization",
                "black and white photo",
                "recolor",
                "exemplar colorization",
                "kosugi",
            ],
            inputs=[
                io.Model.Input("model", tooltip="Stable Diffusion 1.x, 2.x or SDXL."),
                io.Vae.Input("vae", tooltip="The model's VAE."),
                io.Conditioning.Input("conditioning", tooltip="Usually the empty prompt."),
                io.Image.Input("image", tooltip="One or more gray pictures; of colored ones only lightness is used."),
                io.Image.Input(
                    "reference",
                    optional=True,
                    tooltip="A color picture with the same kinds of things: one for all "
                    "inputs, or one for each. Without it the fallback is the reference.",
                ),
                io.Float.Input(
                    "guidance",
                    default=10.0,
                    min=0.0,
                    max=100.0,
                    step=0.5,
                    round=0.01,
                    tooltip="w: 1 is the plain injection at half the cost; higher gives fuller colors, far "
                    "above 10 they bleed. The embedded model likes 3.",
                ),
                io.Int.Input(
                    "passes",
                    default=3,
                    min=1,
                    max=10,
                    tooltip="N: how often the result is inverted and colored again. 1 is fastest; more passes "
                    "follow the reference more closely. The embedded model likes 1.",
                ),
                io.Int.Input(
                    "depth",
                    default=5,
                    min=1,
                    max=999,
                    tooltip="T: steps of noise that coloring may use. Low keeps to the input; high gives more "
                    "color and more mistakes. The embedded model likes 15.",
                ),
                io.Int.Input(
                    "resolution",
                    default=512,
                    min=0,
                    max=4096,
                    step=8,
                    tooltip="Side of the square whose area the model works at: its native size is best (512; "
                    "SDXL 1024; embedded model 128). Color is taken back to the picture's size afterwards. 0 "
                    "works at the pictures' own size.",
                ),
                share(
                    "match_chroma",
                    1.0,
                    "0 keeps the colors as the model draws them, 1 gives the result the mean and "
                    "spread of the reference's colors. The embedded model likes 0.",
                    advanced=False,
                ),
                share(
                    "match_latents",
                    1.0,
                    "Start from noise with the reference's statistics (AdaIN). 0 starts from the "
                    "input's own, as the embedded model likes.",
                ),
                io.Int.Input(
                    "steps",
                    default=50,
                    min=1,
                    max=999,
                    advanced=True,
                    tooltip="Length of the schedule of which the lowest depth steps are used. More makes each "
                    "step smaller, so depth reaches less far.",
                ),
                share(
                    "gamma_shallow", 0.5, "Fine layers: 0 trusts the match between colors, 1 the match gray to gray."
                ),
                share("gamma_deep", 1.0, "Coarse layers: 0 trusts the match between colors, 1 the match gray to gray."),
                share(
                    "beta_shallow",
                    0.5,
                    "Fine layers: 0 takes everything from the reference (as the embedded model "
                    "likes), 1 no color at all.",
                ),
                share("beta_deep", 0.0, "Coarse layers: 0 takes everything from the reference, 1 no color at all."),
                io.Combo.Input(
                    "mix",
                    options=list(MIXES),
                    default="before softmax",
                    advanced=True,
                    tooltip="before softmax favors places on which both matches agree; after softmax averages them.",
                ),
                io.String.Input(
                    "layers",
                    default="color",
                    advanced=True,
                    tooltip="A preset (color, fine, coarse, decoder, encoder, middle, all) or ranges such as "
                    "output.6-11.",
                ),
                io.Combo.Input(
                    "convention",
                    options=list(CONVENTIONS[:2]),
                    default=CONVENTIONS[0],
                    advanced=True,
                    tooltip="consistent comes back down the levels that it went up; official repeats the "
                    "published program's levels.",
                ),
                io.Int.Input(
                    "refinements",
                    default=0,
                    min=0,
                    max=10,
                    advanced=True,
                    tooltip="Fixed-point iterations of the inversion; each makes it truer and costs a model call "
                    "a step.",
                ),
                io.Combo.Input(
                    "postprocess",
                    options=["exact", "official"],
                    default="exact",
                    advanced=True,
                    tooltip="exact merges in float at the picture's own size. official repeats the published 8-bit "
                    "arithmetic with its quirks: the result has the working size, always matches chroma and "
                    "ignores the mask; it needs OpenCV.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="model",
                    advanced=True,
                    tooltip="How kept attention features are stored; float16 halves a float32 model's.",
                ),
                io.Combo.Input(
                    "keep_on",
                    options=["with the model", "cpu"],
                    default="with the model",
                    advanced=True,
                    tooltip="cpu saves GPU memory and costs time.",
                ),
                io.Int.Input(
                    "batch",
                    default=8,
                    min=1,
                    max=256,
                    advanced=True,
                    tooltip="Most pictures in one model call; halved by itself when memory runs out. With more "
                    "pictures "
                    "than this, input_inversion holds the first batch only.",
                ),
                io.Mask.Input("mask", optional=True, tooltip="Where in the input color may go."),
                io.Mask.Input("reference_mask", optional=True, tooltip="Which part of the reference may give color."),
                Inversion.Input(
                    "reference_inversion",
                    optional=True,
                    tooltip="From another Exemplar Colorize with the same settings: saves inverting the reference "
                    "again.",
                ),
                Inversion.Input(
                    "gray_inversion", optional=True, tooltip="From the same node: the reference without color."
                ),
                io.Image.Input(
                    "fallback",
                    optional=True,
                    tooltip="The input colored in another way, for example by DDColor. It "
                    "is the reference when none is connected, and can give colors where the reference has no match.",
                ),
                # last and optional, so that older workflows load
                io.Float.Input(
                    "fallback_below",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.001,
                    optional=True,
                    advanced=True,
                    tooltip="Where attention is less sure of its match than this, the fallback's "
                    "colors are used: 0 never, 1 nearly everywhere. 0.3 is a start.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The inputs in color, at their own size."),
                Inversion.Output(
                    display_name="input_inversion", tooltip="For Attention Map, together with gray_inversion."
                ),
                Inversion.Output(display_name="reference_inversion", tooltip="For another Exemplar Colorize."),
                Inversion.Output(
                    display_name="gray_inversion",
                    tooltip="The reference without color: for another Exemplar Colorize, and for Attention Map.",
                ),
                io.Mask.Output(
                    display_name="from_reference",
                    tooltip="White where colors are the reference's, black where they are the fallback's.",
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
        vae,
        conditioning,
        image,
        guidance,
        passes,
        depth,
        resolution,
        match_chroma,
        reference=None,
        match_latents=1.0,
        steps=50,
        gamma_shallow=0.5,
        gamma_deep=1.0,
        beta_shallow=0.5,
        beta_deep=0.0,
        mix="before softmax",
        layers="color",
        convention=CONVENTIONS[0],
        refinements=0,
        postprocess="exact",
        precision="model",
        keep_on="with the model",
        batch=8,
        mask=None,
        reference_mask=None,
        reference_inversion=None,
        gray_inversion=None,
        fallback=None,
        fallback_below=0.0,
    ) -> io.NodeOutput:
        host.require_unet(model, "Exemplar Colorize")
        image = as_picture(image, "image")
        fallback = as_picture(fallback, "fallback") if fallback is not None else None
        if reference is None and reference_inversion is None:
            reference = fallback
        reference = as_picture(reference, "reference") if reference is not None else None
        warn_if_colored(image, "image")
        if (reference_inversion is None) != (gray_inversion is None):
            raise ValueError("Connect both reference_inversion and gray_inversion of the earlier node, or neither.")
        settings = ColorizeSettings(
            guidance=guidance,
            passes=passes,
            depth=depth,
            steps=steps,
            convention=convention,
            refinements=refinements,
            match_latents=match_latents,
            match_chroma=match_chroma,
            resolution=resolution,
            layers=layers,
            attention=DualAttentionSettings(gamma_shallow, gamma_deep, beta_shallow, beta_deep, mix),
            postprocess=postprocess,
            keep_dtype=PRECISIONS[precision],
            keep_device=keep_device(keep_on),
            fallback_below=fallback_below,
        )
        pair = ReferencePair(reference_inversion, gray_inversion) if reference_inversion is not None else None
        return io.NodeOutput(
            *colorize_batch(
                model, vae, conditioning, image, reference, settings, pair, batch, mask, reference_mask, fallback
            )
        )


def colorize_batch(
    model, vae, conditioning, images, references, settings, pair, batch, mask, reference_mask, fallback=None
):
    """Color any number of pictures, as many at once as memory allows; a shared reference is inverted once.

    :returns: pictures, the inversions of input, reference and gray reference (of the first round, when there are
        several: keeping the features of a hundred frames would fill the memory that they were split to save), and how
        much of the color is the reference's, (B, H, W).
    """
    # for all rounds, before the first one starts
    check_batches(images, references, pair, settings, mask, reference_mask, fallback)
    shared = references.shape[0] == 1 if pair is None else pair.color.pictures == 1
    runner = ComfyHost(model, conditioning, vae)
    rounds, given = -(-images.shape[0] // batch), pair is not None
    one_size = given or one_working_size(runner, images, references, settings)
    calls = settings.model_calls(given, one_size) + (rounds - 1) * settings.model_calls(shared or given, one_size)
    runner.on_step = StepProgress(model, calls)
    colored, shares, first, at = [], [], None, 0
    while at < images.shape[0]:
        part = slice(at, at + batch)
        ready = pair if pair is None or shared else pair.take(range(images.shape[0])[part])
        try:
            result = colorize(
                runner,
                images[part],
                _part(references, part),
                settings,
                prepared=ready,
                source_mask=_part(mask, part),
                reference_mask=_part(reference_mask, part),
                fallback=_part(fallback, part),
            )
        except RuntimeError as error:
            comfy.model_management.raise_non_oom(error)
            if batch == 1:
                raise
            batch = max(1, min(batch, images.shape[0] - at) // 2)
            log.warning("Out of memory; going on with %d picture(s) at once.", batch)
            comfy.model_management.soft_empty_cache()
            continue
        colored.append(result.images)
        shares.append(_share(result))
        first = first or result
        pair = first.reference if shared else pair
        at += batch
    return torch.cat(colored), first.source, first.reference.color, first.reference.gray, torch.cat(shares)


def _share(result):
    """How much of the color is the reference's, at the pictures' size: all of it unless a fallback stepped in."""
    count, height, width, _ = result.images.shape
    if result.from_reference is None:
        return torch.ones(1, 1, 1).expand(count, height, width)
    return full_size(result.from_reference, (height, width))


def _part(tensor, part: slice):
    """Some pictures of a batch; a single one serves all, nothing stays nothing."""
    return tensor if tensor is None or tensor.shape[0] == 1 else tensor[part]


NODES = [Colorize]
