"""The embedded model."""

from __future__ import annotations

from comfy_api.latest import io

from .common import CATEGORY


class LoadDemoModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarLoadDemoModel",
            display_name="Load Embedded Model",
            category=CATEGORY,
            description="A small diffusion model that comes with the pack, so that every workflow runs with nothing "
            "downloaded. It knows drawings of everyday things, also by name, and was trained for these methods; it "
            "says nothing about "
            "the quality of Stable Diffusion.",
            search_aliases=["demo model", "tiny model", "exemplar demo", "embedded model"],
            inputs=[],
            outputs=[
                io.Model.Output(display_name="model", tooltip="Topology of Stable Diffusion 1.x, native at 128 x 128."),
                io.Clip.Output(display_name="clip", tooltip="A bag of words: 'red apple' works, sentences do not."),
                io.Vae.Output(display_name="vae", tooltip="Four pixels a latent, not eight."),
                io.Conditioning.Output(display_name="empty_prompt", tooltip="The empty prompt, encoded."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        from ..hosts.comfy.embedded import load_demo

        model, clip, vae = load_demo()
        empty = clip.encode_from_tokens_scheduled(clip.tokenize(""))
        return io.NodeOutput(model, clip, vae, empty)


NODES = [LoadDemoModel]
