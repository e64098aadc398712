"""DEADiff: its loader, references to tokens, and tokens into a MODEL."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..attention.image_tokens import KINDS, SEMANTICS, STYLE, WEIGHTINGS
from ..color import as_picture
from ..hosts.comfy import deadiff as host
from ..hosts.comfy.deadiff_tokens import fractional_timesteps, install_tokens
from ..hosts.comfy.folders import DEADIFF, EMBEDDED
from ..networks.deadiff.load import WORDS
from ..pipelines.deadiff import COMBINATIONS, parse_weights
from .common import CATEGORY, DEADiffNetwork, DEADiffTokens, FrameProgress, share

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TAKES = {"style": (STYLE,), "semantics": (SEMANTICS,), "style & semantics": KINDS}
TIMESTEPS = ("nearest", "fractional")


class LoadDEADiff(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarLoadDEADiff",
            display_name="Load DEADiff",
            category=CATEGORY,
            description="Loads what DEADiff adds to Stable Diffusion 1.x: the encoder that turns a reference into "
            "tokens, and how "
            "the model listens to them. The rest of its checkpoint is left on disk.",
            search_aliases=["deadiff", "style adapter", "image prompt", "style reference loader", "blip diffusion"],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=DEADIFF.choices(),
                    default=EMBEDDED,
                    tooltip="DEADiff's checkpoint (.ckpt or .safetensors), or an adapter made from it, in "
                    "models/deadiff "
                    "or models/checkpoints. embedded is a tiny one that comes with the pack, for its own model only.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="float32",
                    advanced=True,
                    tooltip="float32 gives the published numbers. bfloat16 and float16 take half the memory; tokens "
                    "differ a little. On a CPU keep float32.",
                ),
            ],
            outputs=[DEADiffNetwork.Output(display_name="deadiff", tooltip="For DEADiff Encode.")],
        )

    @classmethod
    def validate_inputs(cls, model_name=None) -> bool | str:
        return DEADIFF.check(model_name)

    @classmethod
    def execute(cls, model_name, precision="float32") -> io.NodeOutput:
        return io.NodeOutput(host.load(model_name, PRECISIONS[precision]))


class DEADiffEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarDEADiffEncode",
            display_name="DEADiff Encode",
            category=CATEGORY,
            description="Turns references into tokens of their style, of what they show, or of both (Qi et al. 2024). "
            "Runs once; "
            "sampling reuses the tokens.",
            search_aliases=["style tokens", "semantic tokens", "deadiff encode", "image prompt encode", "q-former"],
            inputs=[
                DEADiffNetwork.Input("deadiff", tooltip="From Load DEADiff."),
                io.Image.Input(
                    "image",
                    tooltip="One reference or a batch of them. They are squeezed into a square of 224 pixels (the "
                    "embedded one: 64), so crop to what matters.",
                ),
                io.Combo.Input(
                    "take",
                    options=list(TAKES),
                    default="style",
                    tooltip="style: how it is made, with the prompt deciding what is shown. semantics: what it shows, "
                    "with the prompt deciding how. style & semantics: both, so the prompt has the least to say.",
                ),
                io.String.Input(
                    "weights",
                    default="1",
                    tooltip="One number for all references, or one each, such as 1, 0.5. 0 leaves a reference out; "
                    "high "
                    "values draw an average toward it.",
                ),
                io.Combo.Input(
                    "combine",
                    options=list(COMBINATIONS),
                    default=COMBINATIONS[0],
                    tooltip="average: one set of tokens, the references' weighted mean. together: all tokens side by "
                    "side, "
                    "stronger and less mixed. one each: reference 1 for picture 1 of the latent batch, and so on.",
                ),
                io.Combo.Input(
                    "semantic_word",
                    options=sorted(WORDS),
                    default="content",
                    advanced=True,
                    tooltip="The word with which the semantic branch reads a reference. content is what it was taught; "
                    "the "
                    "published program passes any other word on too.",
                ),
                DEADiffTokens.Input(
                    "tokens",
                    optional=True,
                    tooltip="Tokens of the other kind from another reference: style from one picture, semantics from "
                    "another.",
                ),
            ],
            outputs=[DEADiffTokens.Output(display_name="tokens", tooltip="For Apply DEADiff.")],
        )

    @classmethod
    def execute(
        cls, deadiff, image, take, weights="1", combine=COMBINATIONS[0], semantic_word="content", tokens=None
    ) -> io.NodeOutput:
        image = as_picture(image, "image")
        numbers = parse_weights(weights, len(image))
        words = {STYLE: "style", SEMANTICS: semantic_word}
        made = deadiff.tokens(image, {kind: words[kind] for kind in TAKES[take]}, FrameProgress(len(image)))
        found = deadiff.combined(made, numbers, combine)
        return io.NodeOutput(found if tokens is None else found.joined(tokens))


class ApplyDEADiff(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarApplyDEADiff",
            display_name="Apply DEADiff",
            category=CATEGORY,
            description="Lets a Stable Diffusion 1.x MODEL listen to a reference's tokens beside the prompt: its "
            "coarse layers to "
            "what is shown, the others to style. Goes together with LoRAs, ControlNets, IP-Adapters and the color "
            "nodes.",
            search_aliases=["apply style", "deadiff", "style transfer", "reference style", "image prompt"],
            inputs=[
                io.Model.Input("model", tooltip="A Stable Diffusion 1.x MODEL; for embedded tokens the embedded one."),
                DEADiffTokens.Input("tokens", tooltip="From DEADiff Encode."),
                io.Float.Input(
                    "weight",
                    default=1.0,
                    min=0.0,
                    max=3.0,
                    step=0.05,
                    round=0.001,
                    tooltip="0 is the plain model, 1 what was trained. Above 1 the reference pushes the prompt aside; "
                    "above "
                    "2 pictures break.",
                ),
                share(
                    "start_percent",
                    0.0,
                    "Share of the sampling, 0 to 1, after which the tokens begin. Above 0 the plain model lays "
                    "out the picture first.",
                ),
                share(
                    "end_percent",
                    1.0,
                    "Share of the sampling, 0 to 1, after which they stop; low values leave the details to the "
                    "plain model.",
                ),
                io.Combo.Input(
                    "weighting",
                    options=list(WEIGHTINGS),
                    default=WEIGHTINGS[0],
                    advanced=True,
                    tooltip="plain at 0: below 1 the reference fades out. official: keys and values times weight, as "
                    "in the "
                    "published program; there even 0 damps the prompt, because tokens of zeros still take part.",
                ),
                io.String.Input(
                    "semantic_layers",
                    default=host.AUTO,
                    advanced=True,
                    tooltip="Layers that listen to semantic tokens. auto is what the file was taught (DEADiff's own: "
                    "semantic, "
                    "the coarsest layers). Or other presets (middle, encoder, decoder, coarse), or ranges such as "
                    "output.3-4. More and finer layers copy more of the reference.",
                ),
                io.String.Input(
                    "style_layers",
                    default=host.AUTO,
                    advanced=True,
                    tooltip="Layers that listen to style tokens. auto is what the file was taught (DEADiff's own: "
                    "rest, every "
                    "layer that is not semantic). Layers in neither list hear the prompt alone.",
                ),
                io.Combo.Input(
                    "timesteps",
                    options=list(TIMESTEPS),
                    default=TIMESTEPS[0],
                    advanced=True,
                    tooltip="nearest is ComfyUI's own. fractional reads the model between whole timesteps, as the "
                    "published "
                    "program does with Euler a; with ddim it makes no difference.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where in the picture the tokens act; white is everywhere. Two of these nodes "
                    "with masks take two references for two regions.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="Sample it as usual; DEADiff's own settings are 50 steps of ddim with cfg 8.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        tokens,
        weight,
        start_percent=0.0,
        end_percent=1.0,
        weighting=WEIGHTINGS[0],
        semantic_layers=host.AUTO,
        style_layers=host.AUTO,
        timesteps=TIMESTEPS[0],
        mask=None,
    ) -> io.NodeOutput:
        edit = tokens.edit_for(model, weight, weighting, mask, semantic_layers, style_layers, "Apply DEADiff")
        patched = fractional_timesteps(model) if timesteps == "fractional" else model.clone()
        plain = weight == 0 and weighting == WEIGHTINGS[0]
        if not plain and start_percent < end_percent:
            patched = install_tokens(patched, edit, start_percent, end_percent)
        return io.NodeOutput(patched)


NODES = [LoadDEADiff, DEADiffEncode, ApplyDEADiff]
