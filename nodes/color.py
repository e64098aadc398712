"""Color arithmetic on pictures, and luminance in latent space."""

from __future__ import annotations

from comfy_api.latest import io

from ..color import as_picture, desaturate, merge_luminance, official_merge, resize
from ..color.pictures import to_uint8
from ..diffusion.luminance import luma_direction, pull_luminance
from ..hosts.comfy import sampling
from .common import CATEGORY_COLOR, latent_samples, share, warn_if_colored

DESATURATE_METHODS = {
    "CIE lightness": "lab",
    "Rec. 601 luma": "rec601",
    "Rec. 601, 8 bit (official)": "rec601_8bit",
}


class Desaturate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarDesaturate",
            display_name="Desaturate",
            category=CATEGORY_COLOR,
            description="A gray copy of a picture, in three channels.",
            search_aliases=["grayscale", "greyscale", "black and white", "remove color", "luminance"],
            inputs=[
                io.Image.Input("image", tooltip="Any picture."),
                io.Combo.Input(
                    "method",
                    options=list(DESATURATE_METHODS),
                    default="CIE lightness",
                    tooltip="CIE lightness keeps exactly the L that Luminance Merge works with. Rec. 601 luma is the "
                    "television formula; its 8-bit form is what the published programs use.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="Three equal channels.")],
        )

    @classmethod
    def execute(cls, image, method) -> io.NodeOutput:
        return io.NodeOutput(desaturate(as_picture(image, "image"), DESATURATE_METHODS[method]))


class MergeLuminance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarMergeLuminance",
            display_name="Luminance Merge",
            category=CATEGORY_COLOR,
            description="Colors from one picture, lightness from another, at the latter's own size, in float CIE Lab.",
            search_aliases=["color transfer", "lab merge", "keep luminance", "chroma", "color match"],
            inputs=[
                io.Image.Input("color_image", tooltip="Gives a and b; any size."),
                io.Image.Input(
                    "gray_image",
                    tooltip="Gives L; the result has its size and its lightness (exactly, with gamut fit).",
                ),
                share(
                    "match_statistics",
                    1.0,
                    "With a reference: 0 keeps the colors as they are, 1 gives them the reference's mean and spread.",
                    advanced=False,
                ),
                io.Float.Input(
                    "chroma",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    round=0.001,
                    tooltip="Colorfulness: 0 is gray, 1 as it is, above 1 stronger.",
                ),
                io.Combo.Input(
                    "gamut",
                    options=["fit", "clip"],
                    default="fit",
                    advanced=True,
                    tooltip="Colors that no screen can show: fit makes them paler at the same lightness and "
                    "hue; clip cuts each channel, which changes lightness.",
                ),
                io.Combo.Input(
                    "upsampling",
                    options=["guided", "smooth"],
                    default="guided",
                    advanced=True,
                    tooltip="How colors of a smaller picture are enlarged: guided follows the edges of the gray "
                    "picture, smooth blurs across them.",
                ),
                io.Combo.Input(
                    "arithmetic",
                    options=["exact", "official 8 bit"],
                    default="exact",
                    advanced=True,
                    tooltip="official 8 bit repeats the published program, with its truncation and its "
                    "wrap-around of strong colors; it needs OpenCV and a reference, always matches its "
                    "statistics, and ignores chroma, gamut, upsampling and mask.",
                ),
                io.Image.Input("reference", optional=True, tooltip="Whose color statistics to match."),
                io.Mask.Input("mask", optional=True, tooltip="Where color goes; the rest stays gray."),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="At gray_image's size.")],
        )

    @classmethod
    def execute(
        cls,
        color_image,
        gray_image,
        match_statistics,
        chroma,
        gamut="fit",
        upsampling="guided",
        arithmetic="exact",
        reference=None,
        mask=None,
    ) -> io.NodeOutput:
        color_image, gray_image = as_picture(color_image, "color_image"), as_picture(gray_image, "gray_image")
        reference = as_picture(reference, "reference") if reference is not None else None
        if arithmetic == "exact":
            return io.NodeOutput(
                merge_luminance(
                    color_image,
                    gray_image,
                    statistics_from=reference if match_statistics > 0 else None,
                    statistics_strength=match_statistics,
                    chroma_strength=chroma,
                    mask=mask,
                    gamut=gamut,
                    upsampling=upsampling,
                )
            )
        if reference is None:
            raise ValueError("The official 8-bit merge always matches a reference; connect one, or choose 'exact'.")
        size = tuple(gray_image.shape[1:3])
        decoded = resize(color_image, size).movedim(-1, 1) * 2 - 1
        merged = official_merge(decoded, to_uint8(gray_image), to_uint8(resize(reference, size)))
        return io.NodeOutput(merged.float() / 255)


class LatentLuminance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarLatentLuminance",
            display_name="Latent Luminance",
            category=CATEGORY_COLOR,
            description="Keeps the structure of a gray picture: pulls a LATENT's luminance to the picture's through "
            "the "
            "VAE, or keeps pulling while a MODEL samples, by a linear map.",
            search_aliases=["keep structure", "luminance guidance", "latent luma", "structure lock"],
            inputs=[
                io.Vae.Input("vae", tooltip="The VAE of the model that the latent belongs to."),
                io.Image.Input("gray_image", tooltip="Whose luminance to take."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.001,
                    tooltip="0 changes nothing, 1 takes the gray picture's luminance entirely.",
                ),
                io.Latent.Input("latent", optional=True, tooltip="Exact: decoded, merged in Lab, encoded again."),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Fast: pulled at every sampling step by a linear map; the VAE "
                    "encodes the gray picture once.",
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="Only when a latent came in."),
                io.Model.Output(display_name="model", tooltip="Only when a model came in."),
            ],
        )

    @classmethod
    def execute(cls, vae, gray_image, strength, latent=None, model=None) -> io.NodeOutput:
        if latent is None and model is None:
            raise ValueError("Latent Luminance has nothing to work on: connect a latent, a model, or both.")
        gray_image = as_picture(gray_image, "gray_image")
        warn_if_colored(gray_image, "gray_image")
        if latent is not None:
            latent = {**latent, "samples": exact_luminance(vae, gray_image, latent, strength)}
        if model is not None:
            model = pulled_model(model, vae, gray_image, strength)
        return io.NodeOutput(latent, model)


def exact_luminance(vae, gray_image, latent, strength):
    """Decode, take the gray picture's L, encode."""
    samples = latent_samples(latent, "latent")
    if strength == 0:
        return samples
    decoded = vae.decode(samples)
    gray = resize(desaturate(gray_image), tuple(decoded.shape[1:3]))
    merged = merge_luminance(decoded[..., :3], gray.to(decoded.device))
    encoded = vae.encode(merged)
    return samples + strength * (encoded.to(samples) - samples)


def pulled_model(model, vae, gray_image, strength):
    """A clone whose every clean estimate is pulled to the gray picture's luma."""
    factors = model.model.latent_format.latent_rgb_factors
    if factors is None or model.model.latent_format.latent_dimensions != 2:
        raise ValueError(
            f"No linear latent-to-color map is known for {type(model.model).__name__}; use the latent input instead."
        )
    pulled = model.clone()
    if strength == 0:
        return pulled
    direction, factor = luma_direction(factors), vae.spacial_compression_encode()
    gray = desaturate(gray_image)
    encoded: dict[tuple[int, int], object] = {}

    def before_sampling(shape, _sigmas):
        size = (shape[-2] * factor, shape[-1] * factor)
        if size not in encoded:
            encoded[size] = model.model.process_latent_in(vae.encode(resize(gray, size)))

    def pull(args):
        denoised = args["denoised"]
        size = (denoised.shape[-2] * factor, denoised.shape[-1] * factor)
        target = encoded[size]
        if target.shape[0] > 1:
            target = target[[i % len(target) for i in range(denoised.shape[0])]]
        return pull_luminance(denoised, target, direction, strength)

    pulled = sampling.on_sampling(pulled, before_sampling)
    pulled.set_model_sampler_post_cfg_function(pull)
    return pulled


NODES = [Desaturate, MergeLuminance, LatentLuminance]
