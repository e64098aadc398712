"""Color arithmetic on pictures, and luminance in latent space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..pipelines.color import (
    DesaturateSettings,
    LatentLuminanceSettings,
    LuminanceMergeSettings,
    gray_copy,
    luminance_merge,
)
from ..pipelines.exemplar_settings import PooledReferencesSettings
from .common import CATEGORY_COLOR, warn_if_colored
from .inputs import expect, latent_samples, optional_mask, optional_picture, picture
from .references import several_of, statistics_mask, statistics_mask_input
from .renamed import renamed_from
from .widgets import later_widgets, resolved, title, widgets

if TYPE_CHECKING:
    from torch import Tensor


class Desaturate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarDesaturate",
            display_name="Desaturate",
            category=CATEGORY_COLOR,
            description="A gray copy of a picture, in three channels.",
            search_aliases=["grayscale", "greyscale", "black and white", "b&w", "bw", "remove color", "luminance"],
            inputs=[
                io.Image.Input("image", tooltip="Any picture."),
                *widgets(DesaturateSettings, "method"),
                *later_widgets(DesaturateSettings),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The gray picture, same size, three equal channels.")
            ],
        )

    @classmethod
    def execute(cls, image: Tensor, **values: Any) -> io.NodeOutput:
        settings = resolved(cls, DesaturateSettings, {}, values)
        return io.NodeOutput(gray_copy(picture(cls, image, "image"), settings))


class MergeLuminance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarMergeLuminance",
            display_name="Luminance Merge",
            category=CATEGORY_COLOR,
            description="Colors from one picture, lightness from another, at the latter's own size, in float CIE Lab.",
            search_aliases=["lab merge", "keep luminance", "chroma", "transfer luminance", "cielab"],
            inputs=[
                io.Image.Input(
                    "color_image",
                    tooltip="Gives a and b of CIE Lab. Any size; it is stretched to the gray picture's, see "
                    "upsampling.",
                ),
                io.Image.Input(
                    "image",
                    extra_dict=renamed_from("gray_image"),
                    tooltip="Gives L. The result has its size and its lightness (exactly, with gamut fit).",
                ),
                *widgets(LuminanceMergeSettings, "match_chroma", "saturation", "gamut", "upsampling", "arithmetic"),
                io.Image.Input("reference", optional=True, tooltip="Whose color statistics to match."),
                io.Mask.Input("mask", optional=True, tooltip="Where color goes; the rest stays gray."),
                statistics_mask_input(),
                *later_widgets(LuminanceMergeSettings, PooledReferencesSettings),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The colored picture, at the gray picture's size.")],
        )

    @classmethod
    def execute(
        cls,
        color_image: Tensor,
        image: Tensor,
        reference: Tensor | None = None,
        mask: Tensor | None = None,
        reference_mask: Tensor | None = None,
        **values: Any,
    ) -> io.NodeOutput:
        several = several_of(cls, values)
        settings = resolved(cls, LuminanceMergeSettings, {}, values)
        color_image, image = picture(cls, color_image, "color_image"), picture(cls, image, "image")
        reference, mask = optional_picture(cls, reference, "reference"), optional_mask(cls, mask, "mask")
        masks = statistics_mask(cls, reference_mask, several, 0 if reference is None else len(reference))
        return io.NodeOutput(
            luminance_merge(
                color_image,
                image,
                settings,
                reference=reference,
                mask=mask,
                several=several,
                reference_masks=masks,
            )
        )


class LatentLuminance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarLatentLuminance",
            display_name="Latent Luminance",
            category=CATEGORY_COLOR,
            description="Keeps the structure of a gray picture: pulls a LATENT's luminance to the picture's through "
            "the VAE, or keeps pulling while a MODEL samples, by a linear map.",
            search_aliases=["keep structure", "luminance guidance", "latent luma", "structure lock"],
            inputs=[
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model."),
                io.Image.Input(
                    "image",
                    extra_dict=renamed_from("gray_image"),
                    tooltip="Whose luminance to take. It is stretched to the picture that the latent stands for.",
                ),
                *widgets(LatentLuminanceSettings, "strength"),
                io.Latent.Input(
                    "latent", optional=True, tooltip="The exact way: decoded, merged in Lab, encoded again."
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Fast: at every step the clean estimate is moved along the direction of luma, by the "
                    "linear latent-to-color map that previews use. The VAE encodes the gray picture once.",
                ),
                *later_widgets(LatentLuminanceSettings),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latent", tooltip="Only when a latent came in; otherwise leave it unconnected."
                ),
                io.Model.Output(
                    display_name="model", tooltip="Only when a model came in; otherwise leave it unconnected."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        vae: Any,
        image: Tensor,
        latent: dict[str, Any] | None = None,
        model: Any = None,
        **values: Any,
    ) -> io.NodeOutput:
        from ..hosts.comfy.color import exact_luminance, pulled_model
        from ..hosts.comfy.fits import check_decodes, check_vae

        expect(cls, vae=vae, model=model)
        strength = resolved(cls, LatentLuminanceSettings, {}, values).strength
        image = picture(cls, image, "image")
        if latent is None and model is None:
            raise ValueError(
                f"{title(cls)}: latent: found nothing to work on, expected a latent, a model, or both; connect one."
            )
        samples = None if latent is None else latent_samples(cls, latent, "latent")
        if samples is not None:
            check_decodes(samples, vae, title(cls))
        if model is not None:
            check_vae(vae, model, title(cls))
        warn_if_colored(image, "image")
        if latent is not None and samples is not None:
            latent = {**latent, "samples": exact_luminance(vae, image, samples, strength)}
        if model is not None:
            model = pulled_model(model, vae, image, strength)
        return io.NodeOutput(latent, model)


NODES = [Desaturate, MergeLuminance, LatentLuminance]
