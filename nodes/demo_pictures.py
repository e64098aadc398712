"""Pictures to try the nodes on."""

from __future__ import annotations

from pathlib import Path

import comfy.model_management
import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image

from .. import demo
from .common import CATEGORY

PAIRS = {
    "drawing": ("drawing-gray.png", "drawing-reference.png"),
    "scene": ("scene-gray.png", "scene-reference.png"),
    "photo": ("photo-gray.png", "photo-reference.jpg"),
}


class LoadDemoPictures(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarLoadDemoPictures",
            display_name="Load Example Pictures",
            category=CATEGORY,
            description="A gray picture and a colour reference that come with the pack, so that every workflow runs at "
            "once. For your own pictures put two Load Image nodes in its place.",
            search_aliases=["demo pictures", "sample images", "example images", "exemplar demo", "test pictures"],
            inputs=[
                io.Combo.Input(
                    "pictures",
                    options=list(PAIRS),
                    default="drawing",
                    tooltip="drawing: a flower drawn by two hands. scene: two animals that change places, too hard for "
                    "the embedded model. photo: a cat seen twice; photographs want Stable Diffusion too.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="gray", tooltip="The picture to colour."),
                io.Image.Output(display_name="reference", tooltip="The colour picture to take colours from."),
            ],
        )

    @classmethod
    def execute(cls, pictures) -> io.NodeOutput:
        gray, reference = (load_picture(pictures_folder() / name) for name in PAIRS[pictures])
        return io.NodeOutput(gray, reference)


def pictures_folder() -> Path:
    return Path(demo.__file__).resolve().parent / "pictures"


def load_picture(path: Path) -> torch.Tensor:
    """(1, H, W, 3) in 0..1, where ComfyUI keeps pictures.

    :raises FileNotFoundError: the pack's own file is gone.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"Found no {path.name} in {path.parent}, where the pack keeps its example pictures: reinstall the pack, or "
            "use Load Image with a picture of your own."
        )
    with Image.open(path) as file:
        pixels = np.asarray(file.convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(pixels)[None].to(comfy.model_management.intermediate_device())


NODES = [LoadDemoPictures]
