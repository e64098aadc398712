"""The published programs' samplers, for people who want their very numbers."""

from __future__ import annotations

from comfy_api.latest import io

from ..hosts.comfy.published_sampler import DDIM, PUBLISHED, published_sampling
from .common import CATEGORY_STAGES


class PublishedSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarPublishedSampler",
            display_name="Published Sampler",
            category=CATEGORY_STAGES,
            description="The samplers of DEADiff's and L-CAD's programs with their own noise levels, for "
            "SamplerCustomAdvanced. ComfyUI's "
            "samplers of the same names differ from them at both ends.",
            search_aliases=[
                "ddim official",
                "deadiff sampler",
                "lcad sampler",
                "euler a",
                "published schedule",
                "sigmas",
            ],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL to sample with, whose noise levels are read."),
                io.Combo.Input(
                    "sampler_name",
                    options=list(PUBLISHED),
                    default=DDIM,
                    tooltip="ddim: DEADiff's default and L-CAD's; ends at the smallest trained noise level. "
                    "euler_ancestral: "
                    "DEADiff's other one; set timesteps of Apply DEADiff to fractional with it.",
                ),
                io.Int.Input(
                    "steps",
                    default=50,
                    min=1,
                    max=999,
                    tooltip="Low is quick and coarse, high slow and fine; DEADiff's program allows 10 to 50. With "
                    "ddim, a number "
                    "that does not divide 1000 gives more steps than asked for: 30 gives 31.",
                ),
            ],
            outputs=[
                io.Sampler.Output(display_name="sampler", tooltip="For SamplerCustomAdvanced, with an empty latent."),
                io.Sigmas.Output(display_name="sigmas", tooltip="For SamplerCustomAdvanced, the noise levels."),
            ],
        )

    @classmethod
    def execute(cls, model, sampler_name, steps) -> io.NodeOutput:
        return io.NodeOutput(*published_sampling(model, sampler_name, steps, "Published Sampler"))


NODES = [PublishedSampler]
