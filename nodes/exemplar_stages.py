"""Dual-attention color injection, colorization guidance, and the statistics match before sampling."""

from __future__ import annotations

import logging

from comfy_api.latest import io
from torch import Tensor

from ..attention.dual import MIXES, DualAttentionColor, DualAttentionSettings
from ..color import adain
from ..diffusion.inversion import check_same_model
from ..hosts.comfy import edits, sampling
from ..hosts.comfy import model as host
from ..pipelines.exemplar import color_layers
from .common import CATEGORY_STAGES, Inversion, latent_samples, share

log = logging.getLogger(__name__)


class DualAttentionColorInjection(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarDualAttentionColor",
            display_name="Dual-Attention Color Injection",
            category=CATEGORY_STAGES,
            description="Lets the gray picture look into the reference and take its colors (Kosugi 2025). Acts on the "
            "positive prediction only, so cfg becomes colorization guidance.",
            search_aliases=["colorize", "reference attention", "color injection", "exemplar colorization", "kosugi"],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL to sample with: the one that made the inversions."),
                Inversion.Input("input_inversion", tooltip="The gray picture's inversion, with kept q and k."),
                Inversion.Input("reference_inversion", tooltip="The color reference's inversion, with kept k and v."),
                Inversion.Input("gray_inversion", tooltip="The desaturated reference's inversion, with kept k."),
                share("strength", 1.0, "0 is the plain model, 1 the full injection.", advanced=False),
                share(
                    "gamma_shallow", 0.5, "Fine layers: 0 trusts the match between colors, 1 the match gray to gray."
                ),
                share(
                    "gamma_deep",
                    1.0,
                    "Coarse layers: 0 trusts the match between colors, 1 the match gray to gray; at 1 "
                    "these layers are computed once, before sampling.",
                ),
                share(
                    "beta_shallow",
                    0.5,
                    "Fine layers: 0 takes everything from the reference, 1 keeps the input's own "
                    "attention and takes no color.",
                ),
                share(
                    "beta_deep",
                    0.0,
                    "Coarse layers: 0 takes everything from the reference, 1 keeps the input's own attention.",
                ),
                io.Combo.Input(
                    "mix",
                    options=list(MIXES),
                    default="before softmax",
                    advanced=True,
                    tooltip="Where the two matches are mixed. before softmax favors places on which both "
                    "agree (the paper's default); after softmax averages them.",
                ),
                io.String.Input(
                    "layers",
                    default="color",
                    advanced=True,
                    tooltip="A preset (color, fine, coarse, decoder, encoder, middle, all) or ranges such as "
                    "output.6-11. More and coarser layers move color in larger patches.",
                ),
                share("start_percent", 0.0, "Share of the kept steps, 0 to 1, after which the injection begins."),
                share(
                    "end_percent",
                    1.0,
                    "Share of the kept steps, 0 to 1, after which it stops; low values leave the last "
                    "steps to the model.",
                ),
                io.Mask.Input(
                    "input_mask",
                    optional=True,
                    tooltip="Where in the input color may go; white is everywhere. "
                    "Chain two of these nodes with masks to color two regions from two references.",
                ),
                io.Mask.Input("reference_mask", optional=True, tooltip="Which part of the reference may give color."),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="Sample it from the noised input.")],
        )

    @classmethod
    def execute(
        cls,
        model,
        input_inversion,
        reference_inversion,
        gray_inversion,
        strength,
        gamma_shallow=0.5,
        gamma_deep=1.0,
        beta_shallow=0.5,
        beta_deep=0.0,
        mix="before softmax",
        layers="color",
        start_percent=0.0,
        end_percent=1.0,
        input_mask=None,
        reference_mask=None,
    ) -> io.NodeOutput:
        host.require_unet(model, "Dual-Attention Color Injection")
        for inversion in (input_inversion, reference_inversion, gray_inversion):
            check_same_model(inversion, host.fingerprint(model))
        settings = DualAttentionSettings(
            gamma_shallow, gamma_deep, beta_shallow, beta_deep, mix, strength, start_percent, end_percent
        )
        infos = host.attention_layers(model)
        chosen = color_layers(infos, layers)
        edit = DualAttentionColor(
            settings,
            chosen,
            input_inversion.bank,
            reference_inversion.bank,
            gray_inversion.bank,
            input_mask,
            reference_mask,
            edits.fused_attention({}),
            {info.layer: info.heads for info in infos},
            model.load_device,
        )
        if strength == 0 or start_percent >= end_percent:
            return io.NodeOutput(model.clone())
        patched = edits.install_edit(model, edit, chosen)
        return io.NodeOutput(sampling.on_sampling(patched, sampling_check(edit, input_inversion.size)))


def sampling_check(edit: DualAttentionColor, size: tuple[int, int]):
    """A check of what is about to be sampled against what was inverted."""
    kept = edit.sigmas
    pictures = edit.pictures

    def check(shape: tuple[int, ...], sigmas: Tensor) -> None:
        if tuple(shape[-2:]) != tuple(size):
            raise ValueError(
                f"The latent to sample is {shape[-1]} x {shape[-2]}, but the input was inverted at {size[1]} x "
                f"{size[0]}. Sample the latent that DDIM Inversion gave, or invert at this size."
            )
        if shape[0] % pictures:
            raise ValueError(
                f"The latent batch has {shape[0]} picture(s), but {pictures} were inverted; use as many, or a multiple."
            )
        visited = [float(s) for s in sigmas if s > 0]
        strangers = [s for s in visited if min(abs(s - k) for k in kept) > 0.02 * s]
        if len(strangers) == len(visited) and not any(min(kept) * 0.5 <= s <= max(kept) * 1.5 for s in visited):
            raise ValueError(
                f"The sampler visits sigmas {visited[0]:.3f} to {visited[-1]:.3f}, but attention was kept from "
                f"{max(kept):.3f} to {min(kept):.3f} only. Use the sigmas output of DDIM Inversion, or invert deeper."
            )
        if strangers:
            log.info(
                "%d of %d sampled sigmas were not visited by the inversion; the nearest kept features are used "
                "(kept %.3f to %.3f).",
                len(strangers),
                len(visited),
                max(kept),
                min(kept),
            )

    return check


class ColorGuidance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarColorGuidance",
            display_name="Colorization Guidance",
            category=CATEGORY_STAGES,
            description="Classifier-free colorization guidance (Kosugi 2025): amplifies the difference that color "
            "injection makes. The same as KSampler (Advanced) without added noise, cfg = w and one prompt on both "
            "sides.",
            search_aliases=["color guidance", "classifier-free colorization guidance", "guider", "cfg"],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL from Dual-Attention Color Injection."),
                io.Conditioning.Input("conditioning", tooltip="The prompt used for the inversions, usually empty."),
                io.Float.Input(
                    "weight",
                    default=10.0,
                    min=0.0,
                    max=100.0,
                    step=0.5,
                    round=0.01,
                    tooltip="w. 1 takes the injected prediction as it is (and halves the cost); higher gives fuller "
                    "colors, far above 10 they bleed.",
                ),
            ],
            outputs=[io.Guider.Output(display_name="guider", tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, model, conditioning, weight) -> io.NodeOutput:
        return io.NodeOutput(sampling.color_guider(model, conditioning, weight))


class MatchLatentStatistics(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarMatchLatentStatistics",
            display_name="Latent Statistics Match (AdaIN)",
            category=CATEGORY_STAGES,
            description="Gives each channel of a latent the mean and spread that it has in another latent.",
            search_aliases=["adain", "latent color match", "mean std", "latent statistics"],
            inputs=[
                io.Latent.Input("latent", tooltip="The noised gray picture."),
                io.Latent.Input("reference", tooltip="The noised reference; one for all, or one for each."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.001,
                    tooltip="0 leaves the latent as it is, 1 takes the reference's statistics.",
                ),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="The latent with the reference's statistics.")],
        )

    @classmethod
    def execute(cls, latent, reference, strength) -> io.NodeOutput:
        content, style = latent_samples(latent, "latent"), latent_samples(reference, "reference")
        if content.shape[1] != style.shape[1] or style.shape[0] not in (1, content.shape[0]):
            raise ValueError(
                f"The latents are {tuple(content.shape)} and {tuple(style.shape)}; they need the same channels, and "
                "one reference for all or one for each."
            )
        matched = adain(content, style.to(content), strength=strength)
        return io.NodeOutput({**latent, "samples": matched})


NODES = [DualAttentionColorInjection, ColorGuidance, MatchLatentStatistics]
