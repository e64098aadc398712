"""Instance-aware sampling: phrases of a prompt with masks."""

from __future__ import annotations

import logging

from comfy_api.latest import io

from ..attention.instances import SCHEDULES, STEPS, Instance, InstanceSettings
from ..hosts.comfy import model as host
from ..hosts.comfy.lcad_instances import add_instances, phrase_places
from .common import CATEGORY, share

log = logging.getLogger(__name__)


class LCADInstances(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarLCADInstances",
            display_name="L-CAD Instances",
            category=CATEGORY,
            description="Draws phrases of the prompt into masks, so that each thing gets the color that its own words "
            "say "
            "(L-CAD, Chang et al. 2023). Works on every Stable Diffusion UNet; several can be chained.",
            search_aliases=[
                "l-cad",
                "lcad",
                "regional prompt",
                "instance aware",
                "mask prompt",
                "attention couple",
                "phrase mask",
            ],
            inputs=[
                io.Model.Input("model", tooltip="L-CAD, or a Stable Diffusion 1.x, 2.x or SDXL model."),
                io.Clip.Input("clip", tooltip="The CLIP that reads the prompt."),
                io.Mask.Input(
                    "masks",
                    tooltip="A mask for each phrase, in their order, from any segmentation node; white is where "
                    "it belongs. For several pictures: one set for all, or a set for each, picture after picture.",
                ),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default="",
                    tooltip="The whole positive prompt, for example 'the red cup, the blue cup'.",
                ),
                io.String.Input(
                    "phrases",
                    multiline=True,
                    default="",
                    tooltip="The parts of the prompt that have a mask, one a line, written as they stand there. Empty: "
                    "the parts between commas.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1000000.0,
                    step=0.1,
                    round=0.001,
                    tooltip="0 is the plain model. Low values let colors stray; 1 keeps them to their masks; high "
                    "values leave a thing nothing but its own words. With the official step 1 is the published "
                    "size, which is hardly seen; thousands are.",
                ),
                io.Combo.Input(
                    "step",
                    options=list(STEPS),
                    default=STEPS[0],
                    advanced=True,
                    tooltip="normalized moves every attention logit by the same amount, at any size of picture and any "
                    "number of words. official takes the published gradient step, divided by all there is.",
                ),
                io.Combo.Input(
                    "schedule",
                    options=list(SCHEDULES),
                    default=SCHEDULES[0],
                    advanced=True,
                    tooltip="one pass costs nothing extra. official calls the model a second time for the positive "
                    "prompt, with the attention of the first call, as published.",
                ),
                share(
                    "start_percent",
                    0.0,
                    "Share of the sampling, 0 to 1, after which the masks begin to act. High values leave "
                    "the layout to the model.",
                ),
                share(
                    "end_percent",
                    1.0,
                    "Share of the sampling, 0 to 1, after which they stop. Low values leave the last steps to "
                    "the model; colors are decided early.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="For KSampler, or any guider."),
                io.Conditioning.Output(
                    display_name="positive",
                    tooltip="The prompt as the phrases were looked up in it: for L-CAD Condition or the sampler.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        clip,
        masks,
        prompt,
        phrases="",
        strength=1.0,
        step=STEPS[0],
        schedule=SCHEDULES[0],
        start_percent=0.0,
        end_percent=1.0,
    ) -> io.NodeOutput:
        host.require_unet(model, "L-CAD Instances")
        named = [line.strip() for line in phrases.splitlines() if line.strip()]
        names, places, length = phrase_places(clip, prompt, named)
        masks = masks.reshape(-1, *masks.shape[-2:])
        if len(masks) % len(names):
            raise ValueError(
                f"There are {len(masks)} mask(s) for {len(names)} phrase(s): {', '.join(names)}. Give each phrase one "
                f"mask, in "
                "this order; join masks with Batch Masks or chain one of these nodes a phrase."
            )
        sampling = model.get_model_object("model_sampling")
        settings = InstanceSettings(
            strength, step, schedule, sampling.percent_to_sigma(start_percent), sampling.percent_to_sigma(end_percent)
        )
        instances = [
            Instance(name, tokens, length, masks[i :: len(names)].float().cpu(), settings)
            for i, (name, tokens) in enumerate(zip(names, places, strict=True))
        ]
        positive = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
        log.info("Phrases and their tokens: %s.", "; ".join(f"{i.phrase} {list(i.tokens)}" for i in instances))
        if strength == 0:
            return io.NodeOutput(model.clone(), positive)
        return io.NodeOutput(add_instances(model, instances), positive)


NODES = [LCADInstances]
