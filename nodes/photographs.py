"""Photographs from files and to files, at their own depth and with what their files say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..hosts.comfy import changes, output
from ..hosts.comfy import photographs as host
from ..pipelines.photographs import LoadPhotographSettings, SavePhotographSettings, mask_of, save_photographs
from .common import CATEGORY
from .inputs import choice, expect, picture
from .widgets import announce, later_widgets, resolved, widgets

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from ..files.photographs import FileFacts, Photograph

#: What a picture file said about itself (``files.photographs.FileFacts``).
PhotographFacts = io.Custom("PHOTOGRAPH_FACTS")

_ALIASES = ["tiff", "16 bit", "scan", "icc profile", "exif", "photo"]
_IMAGE = (
    "The pixels as sRGB, whatever profile and depth the file has, turned upright. Gray has three equal channels, and "
    "white is exactly 1."
)
_MASK = "Where the file is transparent, white. Black, and small, where it is opaque."
_FACTS = "What the file said: resolution, capture metadata, profile and depth. For Save Photograph."


class LoadPhotograph(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarLoadPhotograph",
            display_name="Load Photograph",
            category=CATEGORY,
            description="Loads a picture file as scanners, cameras and archives make them: profiles are converted to "
            "sRGB, 16 bits and floats stay precise, and what the file says is kept for Save Photograph.",
            search_aliases=["load image", "open photo", "upload", *_ALIASES],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Combo.Input(
                    "image",
                    options=host.files(),
                    upload=io.UploadType.image,
                    tooltip="A file of ComfyUI's input folder, or one that you upload: PNG, TIFF, JPEG, WebP, GIF, "
                    "JPEG 2000, EXR and more. The page shows only what a browser can show.",
                ),
                *widgets(LoadPhotographSettings, "pages"),
                *later_widgets(LoadPhotographSettings),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip=_IMAGE),
                io.Mask.Output(display_name="mask", tooltip=_MASK),
                PhotographFacts.Output(display_name="facts", tooltip=_FACTS),
            ],
        )

    @classmethod
    def validate_inputs(cls, image: str | None = None) -> bool | str:
        return host.check(image)

    @classmethod
    def fingerprint_inputs(cls, image: str | None = None, **values: Any) -> str:
        return "" if image is None or host.check(image) is not True else changes.fingerprint([host.path_of(image)])

    @classmethod
    def execute(cls, image: str, **values: Any) -> io.NodeOutput:
        settings = resolved(cls, LoadPhotographSettings, {}, values)
        photograph = _read(cls, choice(cls, "image", image, host.path_of, host.UNLISTED), settings)
        return io.NodeOutput(photograph.images, mask_of(photograph), photograph.facts)


class LoadPhotographFolder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarLoadPhotographFolder",
            display_name="Load Photographs (from Folder)",
            category=CATEGORY,
            description="Loads all picture files of a folder as Load Photograph does, one after another: nodes behind "
            "it run once for each, so sizes may differ.",
            search_aliases=["load folder", "batch of photos", "load images", *_ALIASES],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=host.folders(),
                    tooltip="A folder in ComfyUI's input folder. All its pictures are read, by name; other files and "
                    "folders within it are passed over.",
                ),
                *widgets(LoadPhotographSettings, "pages"),
                *later_widgets(LoadPhotographSettings),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip=_IMAGE, is_output_list=True),
                io.Mask.Output(display_name="mask", tooltip=_MASK, is_output_list=True),
                PhotographFacts.Output(display_name="facts", tooltip=_FACTS, is_output_list=True),
            ],
        )

    @classmethod
    def validate_inputs(cls, folder: str | None = None) -> bool | str:
        return host.check_folder(folder)

    @classmethod
    def fingerprint_inputs(cls, folder: str | None = None, **values: Any) -> str:
        return (
            ""
            if folder is None or host.check_folder(folder) is not True
            else changes.fingerprint(host.files_of(folder))
        )

    @classmethod
    def execute(cls, folder: str, **values: Any) -> io.NodeOutput:
        settings = resolved(cls, LoadPhotographSettings, {}, values)
        read = [_read(cls, path, settings) for path in choice(cls, "folder", folder, host.files_of, host.UNLISTED)]
        return io.NodeOutput([p.images for p in read], [mask_of(p) for p in read], [p.facts for p in read])


def _read(cls: type[io.ComfyNode], path: Path, settings: LoadPhotographSettings) -> Photograph:
    from ..files.pictures import read_photograph

    photograph = read_photograph(path, pages=settings.pages)
    for note in photograph.facts.notes:
        announce(cls, f"{path.name}: {note}")
    return photograph


class SavePhotograph(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarSavePhotograph",
            display_name="Save Photograph",
            category=CATEGORY,
            description="Saves pictures to ComfyUI's output folder with 8 or 16 bits, an sRGB profile, and what the "
            "photograph's own file said: its resolution and its capture metadata.",
            search_aliases=["save image", "export photo", "save tiff", "save 16 bit png", "save exr", *_ALIASES],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
            inputs=[
                io.Image.Input("images", tooltip="The pictures to save; each of a batch gets a file of its own."),
                *widgets(SavePhotographSettings, "filename_prefix", "format", "bits", "workflow", "quality"),
                PhotographFacts.Input(
                    "facts",
                    optional=True,
                    tooltip="From Load Photograph: resolution and capture metadata of the file that the pictures were "
                    "made of. Without it the files say only what they themselves are.",
                ),
                *later_widgets(SavePhotographSettings),
            ],
            outputs=[],
        )

    @classmethod
    def validate_inputs(
        cls, filename_prefix: str | None = None, format: str | None = None, bits: str | None = None
    ) -> bool | str:
        if (verdict := output.check_prefix(filename_prefix)) is not True:
            return verdict
        if format is None or bits is None:  # one comes through a link
            return True
        try:
            SavePhotographSettings.resolve(format=format, bits=bits).check()
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, images: Tensor, facts: FileFacts | None = None, **values: Any) -> io.NodeOutput:
        from comfy_api.latest import ui

        settings = resolved(cls, SavePhotographSettings, {}, values)
        settings.check()
        expect(cls, facts=facts)
        images = picture(cls, images, "images")
        folder, stem, number, inside = output.destination(settings.filename_prefix, images.shape[2], images.shape[1])
        written = save_photographs(
            images, folder, stem, settings, number=number, facts=facts, workflow=output.workflow_of(cls.hidden)
        )
        files = [{"filename": path.name, "subfolder": inside, "type": "output"} for path in written]
        if settings.format in ("png", "jpeg"):
            return io.NodeOutput(ui={"images": files})
        shown = ui.PreviewImage(images).as_dict()  # a browser shows neither TIFF nor EXR
        return io.NodeOutput(ui={"images": shown["images"], "photographs": files})


NODES = [LoadPhotograph, LoadPhotographFolder, SavePhotograph]
