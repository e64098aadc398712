"""Automatic color: DDColor's loader, and the node that runs it."""

from __future__ import annotations

import logging

import torch
from comfy_api.latest import io

from ..color import as_picture
from ..color.merge import GAMUTS, UPSAMPLINGS
from ..hosts.comfy import ddcolor as host
from ..pipelines.ddcolor import ARITHMETICS, SHAPES, AutoColorSettings, auto_color
from .common import CATEGORY, DDColorNetwork, FrameProgress, share, warn_if_colored

log = logging.getLogger(__name__)

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# here, so that the folder is known before any file list is asked for
host.register_folder()


class LoadDDColor(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarLoadDDColor",
            display_name="Load DDColor",
            category=CATEGORY,
            description="Loads a DDColor network, which colors gray pictures with no reference at all. Which of the "
            "released "
            "ones a file holds is read from its weights.",
            search_aliases=["ddcolor", "automatic colorization", "colorize model", "ddcolor loader", "modelscope"],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=[host.EMBEDDED, *host.list_files()],
                    default=host.EMBEDDED,
                    tooltip="A file in models/ddcolor or models/upscale_models: .pth, .pt, .bin or .safetensors. "
                    "ddcolor_modelscope is a good start, ddcolor_artistic is more colorful, ddcolor_paper_tiny is "
                    "the smallest released one. embedded is a tiny one that comes with the pack, knows drawings only "
                    "and wants a resolution of 128.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="float32",
                    advanced=True,
                    tooltip="float32 gives the published numbers. bfloat16 and float16 take half the memory and are "
                    "faster on most GPUs; colors differ by about a level of 255. On a CPU keep float32.",
                ),
            ],
            outputs=[DDColorNetwork.Output(display_name="ddcolor", tooltip="For DDColor.")],
        )

    @classmethod
    def validate_inputs(cls, model_name=None) -> bool | str:
        # a linked name is not known yet and comes as None
        known = model_name is None or model_name == host.EMBEDDED or model_name in host.list_files()
        return True if known else host.missing(model_name)

    @classmethod
    def execute(cls, model_name, precision="float32") -> io.NodeOutput:
        loaded = host.load(model_name, PRECISIONS[precision])
        log.info("%s is a DDColor network on %s.", loaded.name, loaded.variant)
        return io.NodeOutput(loaded)


class DDColor(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarDDColor",
            display_name="DDColor",
            category=CATEGORY,
            description="Colors gray pictures or video frames with no reference, in one forward pass (Kang et al. "
            "2023). The "
            "result has the picture's own size and lightness.",
            search_aliases=[
                "automatic colorization",
                "colorize photo",
                "colorize video",
                "black and white",
                "ddcolor",
                "auto color",
            ],
            inputs=[
                DDColorNetwork.Input("ddcolor", tooltip="From Load DDColor."),
                io.Image.Input("image", tooltip="One or more gray pictures; of colored ones only lightness is used."),
                io.Int.Input(
                    "resolution",
                    default=512,
                    min=0,
                    max=4096,
                    step=32,
                    tooltip="Side of the square whose area the network works at. Low: larger, calmer areas of color, "
                    "fast. High: more detail, more patchwork, slow. 512 is what the released ones were trained for, "
                    "128 the embedded one; 0 is the picture's own size.",
                ),
                io.Float.Input(
                    "saturation",
                    default=1.0,
                    min=0.0,
                    max=3.0,
                    step=0.05,
                    round=0.001,
                    tooltip="Colorfulness of the new colors: 0 is gray, 1 as the network gives them, above 1 stronger.",
                ),
                share(
                    "strength",
                    1.0,
                    "0 returns the picture as it is, 1 puts the new colors in the place of whatever color it "
                    "has, between mixes the two.",
                    advanced=False,
                ),
                io.Int.Input(
                    "steady",
                    default=0,
                    min=0,
                    max=32,
                    tooltip="For video: how many frames before and after smooth a frame's color. 0 is off, for single "
                    "pictures; 2 to 4 calm flicker; high values are slower. What moves and what comes after a cut "
                    "keeps "
                    "its own color.",
                ),
                io.Combo.Input(
                    "shape",
                    options=list(SHAPES),
                    default=SHAPES[0],
                    advanced=True,
                    tooltip="aspect keeps the picture's proportions; square squeezes it into a square, as the "
                    "published program does.",
                ),
                io.Combo.Input(
                    "upsampling",
                    options=list(UPSAMPLINGS),
                    default=UPSAMPLINGS[0],
                    advanced=True,
                    tooltip="How colors come to the picture's size: guided follows its edges, smooth blurs across "
                    "them.",
                ),
                io.Combo.Input(
                    "gamut",
                    options=list(GAMUTS),
                    default=GAMUTS[0],
                    advanced=True,
                    tooltip="Colors that no screen can show: fit makes them paler at the same lightness and hue; clip "
                    "cuts each channel, which changes lightness.",
                ),
                io.Combo.Input(
                    "arithmetic",
                    options=list(ARITHMETICS),
                    default=ARITHMETICS[0],
                    advanced=True,
                    tooltip="official repeats the published program: a square, colors in blocks, 8 bits. It heeds "
                    "resolution and batch only.",
                ),
                io.Int.Input(
                    "batch",
                    default=0,
                    min=0,
                    max=256,
                    advanced=True,
                    tooltip="Most frames in one call: low saves memory, high is faster on a GPU. 0 takes what fits. "
                    "Halved "
                    "by itself when memory runs out.",
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="Where the new colors go; elsewhere the picture stays as it is."
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The pictures in color, at their own size.")],
        )

    @classmethod
    def execute(
        cls,
        ddcolor,
        image,
        resolution,
        saturation,
        strength,
        steady,
        shape=SHAPES[0],
        upsampling=UPSAMPLINGS[0],
        gamut=GAMUTS[0],
        arithmetic=ARITHMETICS[0],
        batch=0,
        mask=None,
    ) -> io.NodeOutput:
        image = as_picture(image, "image")
        if strength == 1:
            warn_if_colored(image, "image")
        settings = AutoColorSettings(
            resolution=resolution,
            shape=shape,
            saturation=saturation,
            strength=strength,
            steady=steady,
            upsampling=upsampling,
            gamut=gamut,
            arithmetic=arithmetic,
            batch=batch,
        )
        return io.NodeOutput(auto_color(ddcolor, image, settings, mask=mask, on_frames=FrameProgress(len(image))))


NODES = [LoadDDColor, DDColor]
