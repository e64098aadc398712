"""The published programs' samplers, for people who want their very numbers."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..pipelines.published_sampler import PublishedSamplerSettings
from .common import CATEGORY_STAGES
from .inputs import expect
from .widgets import later_widgets, resolved, title, widgets


class PublishedSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarPublishedSampler",
            display_name="Published Sampler",
            category=CATEGORY_STAGES,
            description="The samplers of DEADiff's and L-CAD's programs with their own noise levels, for "
            "SamplerCustomAdvanced. ComfyUI's samplers of the same names differ from them at both ends.",
            search_aliases=[
                "ddim official",
                "deadiff sampler",
                "lcad sampler",
                "euler a",
                "published schedule",
                "sigmas",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The MODEL to sample with: Stable Diffusion 1.x, 2.x or SDXL. Only its noise levels are "
                    "read.",
                ),
                *widgets(PublishedSamplerSettings, "sampler_name", "steps"),
                *later_widgets(PublishedSamplerSettings),
            ],
            outputs=[
                io.Sampler.Output(display_name="sampler", tooltip="For SamplerCustomAdvanced, with an empty latent."),
                io.Sigmas.Output(
                    display_name="sigmas",
                    tooltip="Its noise levels, for SamplerCustomAdvanced; the last one of ddim is above 0.",
                ),
            ],
        )

    @classmethod
    def execute(cls, model: Any, **values: Any) -> io.NodeOutput:
        from ..hosts.comfy.published_sampler import published_sampling

        expect(cls, model=model)
        return io.NodeOutput(
            *published_sampling(model, resolved(cls, PublishedSamplerSettings, {}, values), title(cls))
        )


NODES = [PublishedSampler]
