"""Luminance of latents through a VAE, and while a MODEL samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...attention.constants import Constants
from ...attention.rows import taken
from ...color import check_batch, desaturate, in_batches, merge_luminance, part_of, resize
from ...diffusion.luminance import luma_direction, pull_luminance
from .edits import PlacedEdit, Sampling, add_edit
from .memory import out_of_memory
from .runs import stop_if_canceled


def exact_luminance(vae: Any, image: Tensor, latent: Tensor, strength: float) -> Tensor:
    """Decode, take the gray picture's L, encode.

    :param image: (1 or B, H, W, 3) in 0..1.
    :param latent: (B, C, h, w) in the VAE's scale; with strength 0 it is returned itself.
    """
    if strength == 0:
        return latent
    gray = desaturate(image)
    check_batch(latent=latent, image=gray)
    latent = latent.expand(max(len(latent), len(gray)), -1, -1, -1)

    def pulled(part: slice) -> Tensor:
        stop_if_canceled()
        decoded = vae.decode(latent[part])
        own = part_of(gray, part)
        lightness = resize(gray if own is None else own, tuple(decoded.shape[1:3]))
        merged = merge_luminance(decoded[..., :3], lightness.to(decoded.device))
        stop_if_canceled()
        return latent[part] + strength * (vae.encode(merged).to(latent) - latent[part])

    return torch.cat([made for _, made in in_batches(len(latent), len(latent), pulled, out_of_memory)])


def pulled_model(model: Any, vae: Any, image: Tensor, strength: float) -> Any:
    """A clone of a MODEL whose every clean estimate is pulled to the gray picture's luma.

    The gray picture's latent is kept for each size that was sampled, as long as the clone lives; on the device for one
    run.

    :param image: (1 or B, H, W, 3) in 0..1.
    :raises ValueError: a family whose latents have no known linear map to color.
    """
    factors = model.model.latent_format.latent_rgb_factors
    if factors is None or model.model.latent_format.latent_dimensions != 2:
        raise ValueError(
            f"model: found {type(model.model).__name__}, expected one with a known linear map from latents to color; "
            "use the latent input instead."
        )
    pulled = model.clone()
    if strength == 0:
        return pulled
    direction, factor = luma_direction(factors), vae.spacial_compression_encode()
    gray = desaturate(image)
    encoded: dict[tuple[int, int], Tensor] = {}
    sent = Constants()

    def before_sampling(run: Sampling) -> None:
        shape = run.shape
        if shape[0] % len(gray):
            raise ValueError(
                f"image: found {len(gray)} picture(s) for {shape[0]} latent(s), expected one for all, or one for each."
            )
        size = (shape[-2] * factor, shape[-1] * factor)
        if size not in encoded:
            encoded[size] = model.model.process_latent_in(vae.encode(resize(gray, size)))

    def pull(args: dict[str, Any]) -> Tensor:
        denoised = args["denoised"]
        size = (denoised.shape[-2] * factor, denoised.shape[-1] * factor)
        target = sent.on(denoised.device, lambda: encoded[size], size)
        if target.shape[0] > 1:
            target = taken(target, [i % len(target) for i in range(denoised.shape[0])])
        along = sent.on(denoised.device, lambda: direction, "direction")
        return pull_luminance(denoised, target, along, strength)

    pulled = add_edit(pulled, PlacedEdit("Latent Luminance", check=before_sampling, release=sent.clear))
    pulled.set_model_sampler_post_cfg_function(pull)
    return pulled
