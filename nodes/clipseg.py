"""Masks from words: CLIPSeg's loader, and the node that asks it."""

from __future__ import annotations

import logging

from comfy_api.latest import io

from ..color import as_picture
from ..hosts.comfy import clipseg as host
from ..pipelines.clipseg import ReferringSettings, refer, tinted
from .common import CATEGORY, FrameProgress, Referring

log = logging.getLogger(__name__)

# here, so that the folder is known before any file list is asked for
host.register_folder()


class LoadCLIPSeg(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarLoadCLIPSeg",
            display_name="Load CLIPSeg",
            category=CATEGORY,
            description="Loads a referring segmentation model, which finds in a picture what a text says (Lüddecke and "
            "Ecker "
            "2022).",
            search_aliases=["clipseg", "text to mask", "referring segmentation", "segmentation model"],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=[host.FROM_HUB, *host.list_folders()],
                    default=host.FROM_HUB,
                    tooltip="A folder in models/clipseg, or the published one from the hub, which then stays in that "
                    "folder (about 600 MB).",
                ),
                io.Boolean.Input(
                    "allow_download",
                    default=False,
                    tooltip="Off: nothing is ever fetched. On: the choice from the hub is, if it isn't there yet.",
                ),
            ],
            outputs=[Referring.Output(display_name="referring", tooltip="For Referring Mask.")],
        )

    @classmethod
    def validate_inputs(cls, model_name=None) -> bool | str:
        # a linked name is not known yet and comes as None
        known = model_name is None or model_name == host.FROM_HUB or model_name in host.list_folders()
        return True if known else host.missing(model_name)

    @classmethod
    def execute(cls, model_name, allow_download=False) -> io.NodeOutput:
        loaded = host.load(model_name, allow_download)
        log.info("%s looks at pictures in squares of %d.", loaded.name, loaded.loaded.side)
        return io.NodeOutput(loaded)


class ReferringMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarReferringMask",
            display_name="Referring Mask",
            category=CATEGORY,
            description="Makes masks from words: where in the picture each phrase applies, in the order that L-CAD "
            "Instances "
            "wants.",
            search_aliases=["clipseg", "text to mask", "referring segmentation", "segment by text", "phrase mask"],
            inputs=[
                Referring.Input("referring", tooltip="From Load CLIPSeg."),
                io.Image.Input("image", tooltip="One or more pictures of any size, gray ones too."),
                io.String.Input(
                    "phrases",
                    multiline=True,
                    default="",
                    tooltip="What to look for, one phrase a line. Name things rather than colors: a gray picture "
                    "has none.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.4,
                    min=0.0,
                    max=0.99,
                    step=0.05,
                    round=0.001,
                    tooltip="How likely a place must be. Low takes in more around a thing, high only its surest "
                    "parts; 0 gives soft masks.",
                ),
                io.Boolean.Input(
                    "exclusive",
                    default=True,
                    tooltip="On: each place belongs to its likeliest phrase only. Off: masks may overlap.",
                ),
            ],
            outputs=[
                io.Mask.Output(display_name="masks", tooltip="A mask for each phrase, picture after picture."),
                io.Image.Output(display_name="picture", tooltip="The masks as colors over the picture."),
            ],
        )

    @classmethod
    def execute(cls, referring, image, phrases, threshold, exclusive) -> io.NodeOutput:
        image = as_picture(image, "image")
        wanted = [line.strip() for line in phrases.splitlines() if line.strip()]
        settings = ReferringSettings(threshold, exclusive)
        masks = refer(referring, image, wanted, settings, FrameProgress(len(image)))
        return io.NodeOutput(masks, tinted(image.cpu(), masks))


NODES = [LoadCLIPSeg, ReferringMask]
