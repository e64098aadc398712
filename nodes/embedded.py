"""What comes with the pack: the embedded model, and pictures to try things on."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .. import demo
from ..files.pictures import load_picture
from .common import CATEGORY, CATEGORY_VIDEO
from .widgets import resolved, widgets


class LoadDemoModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarLoadDemoModel",
            display_name="Load Embedded Model",
            category=CATEGORY,
            description="A small diffusion model that comes with the pack, so that every workflow runs with nothing "
            "downloaded. It knows drawings of everyday things, also by name, and was trained for these methods; it "
            "says nothing about the quality of Stable Diffusion.",
            search_aliases=["demo model", "tiny model", "exemplar demo", "embedded model"],
            inputs=[],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="A UNet built like Stable Diffusion's, much smaller, with three resolutions. It carries "
                    "what it recommends: settings that are left on auto take it.",
                ),
                io.Clip.Output(
                    display_name="clip",
                    tooltip="A bag of words, not a language model. 'red apple' works, sentences do not. Only the "
                    "letters a to z count, so text in other scripts is the same as no text; at most eight words.",
                ),
                io.Vae.Output(
                    display_name="vae",
                    tooltip="A linear autoencoder: a latent stands for four by four pixels, not eight by eight. Gray "
                    "pictures stay gray.",
                ),
                io.Conditioning.Output(
                    display_name="empty_prompt",
                    tooltip="The empty prompt, encoded, for other packs' nodes; the MODEL carries it for ours.",
                ),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        from ..hosts.comfy.embedded import load_demo
        from ..hosts.comfy.empty_prompt import encoded

        model, clip, vae = load_demo()
        return io.NodeOutput(model, clip, vae, encoded(clip))


class LoadDemoPictures(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarLoadDemoPictures",
            display_name="Load Example Pictures",
            category=CATEGORY,
            description="A gray picture and a color reference that come with the pack, so that every workflow runs at "
            "once. For your own pictures put two Load Photograph nodes in its place.",
            search_aliases=["demo pictures", "sample images", "example images", "exemplar demo", "test pictures"],
            inputs=widgets(demo.ExampleSettings, "pictures"),
            outputs=[
                io.Image.Output(display_name="gray", tooltip="The picture to color, three equal channels."),
                io.Image.Output(display_name="reference", tooltip="The color picture to take colors from."),
            ],
        )

    @classmethod
    def execute(cls, **values: Any) -> io.NodeOutput:
        return io.NodeOutput(*map(load_picture, demo.example_paths(resolved(cls, demo.ExampleSettings, {}, values))))


class LoadDemoFilm(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarLoadDemoFilm",
            display_name="Load Example Film",
            category=CATEGORY_VIDEO,
            description="A gray film of three shots that comes with the pack, with key frames of the first and last "
            "and a color reference of the other. For a film of your own put Load Video in its place.",
            search_aliases=["demo film", "example video", "sample video", "test video"],
            inputs=[],
            outputs=[
                io.Video.Output(display_name="film", tooltip="72 frames of 192 x 144 pixels, 12 a second, in gray."),
                io.Image.Output(
                    display_name="reference", tooltip="The things of the second shot at other places, in color."
                ),
                io.Image.Output(
                    display_name="key_frames",
                    tooltip="A frame of the first shot and one of the last in color: 12, 60 for key_frame_numbers.",
                ),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        import torch

        from ..hosts.comfy.videos import video_of

        reference, *keys = map(load_picture, demo.film_color_paths())
        return io.NodeOutput(video_of(demo.film_path()), reference, torch.cat(keys))


NODES = [LoadDemoModel, LoadDemoPictures, LoadDemoFilm]
