"""Pictures to try the nodes on."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io

from .. import demo
from ..files.pictures import load_picture
from .common import CATEGORY

PAIRS = {
    "drawing": ("drawing-gray.png", "drawing-reference.png"),
    "scene": ("scene-gray.png", "scene-reference.png"),
    "photo": ("photo-gray.png", "photo-reference.jpg"),
    "words": ("words-gray.png", "words-reference.png"),
}


class LoadDemoPictures(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarLoadDemoPictures",
            display_name="Load Example Pictures",
            category=CATEGORY,
            description="A gray picture and a color reference that come with the pack, so that every workflow runs at "
            "once. For your own pictures put two Load Image nodes in its place.",
            search_aliases=["demo pictures", "sample images", "example images", "exemplar demo", "test pictures"],
            inputs=[
                io.Combo.Input(
                    "pictures",
                    options=list(PAIRS),
                    default="drawing",
                    tooltip="drawing: a flower drawn by two hands. scene: two things that change places. photo: a cat "
                    "seen "
                    "twice. words: an apple and an umbrella, for L-CAD. The embedded models know drawings; photographs "
                    "want Stable "
                    "Diffusion.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="gray", tooltip="The picture to color."),
                io.Image.Output(display_name="reference", tooltip="The color picture to take colors from."),
            ],
        )

    @classmethod
    def execute(cls, pictures) -> io.NodeOutput:
        gray, reference = (load_picture(pictures_folder() / name) for name in PAIRS[pictures])
        return io.NodeOutput(gray, reference)


def pictures_folder() -> Path:
    return Path(demo.__file__).resolve().parent / "pictures"


NODES = [LoadDemoPictures]
