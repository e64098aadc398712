"""Whether a VAE, a LATENT, an INVERSION or PIVOTS are a MODEL's, and whether its noise levels are enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...diffusion.inversion import Inversion, check_same_model
from ...diffusion.levels import TOLERANCE
from ...diffusion.pivot import Pivots
from .model import attention_layers, context_width, fingerprint, sigma_table


def check_vae(vae: Any, model: Any, node: str, name: str = "vae") -> None:
    """Whether a VAE makes latents of the size and with the channels that a MODEL reads.

    :param node: display name of the asking node; ``name`` is its input's. Messages start with them.
    :raises ValueError: it does not; both are said.
    """
    check_whole(vae, node, name)
    latents = model.model.latent_format
    expected = latents.latent_channels, latents.spacial_downscale_ratio, latents.latent_dimensions
    found = _kind(vae, expected)
    if found != expected:
        raise ValueError(
            f"{node}: {name}: found a VAE {_said(*found)}, expected one {_said(*expected)} for this MODEL "
            f"({type(model.model).__name__}); connect the VAE that comes with the model, from the same loader."
        )


def check_whole(vae: Any, node: str, name: str = "vae") -> None:
    """Whether there is anything in a VAE: a loader gives an empty one for a file without.

    :raises ValueError: there is not.
    """
    if getattr(vae, "first_stage_model", vae) is None:
        raise ValueError(
            f"{node}: {name}: found a VAE without weights, since its file has none; connect one from Load VAE."
        )


def check_latent(samples: Tensor, model: Any, node: str, name: str = "latent") -> None:
    """Whether a LATENT has the channels that a MODEL reads.

    :param samples: (B, C, h, w), with an axis of frames where the MODEL's latents have one.
    :raises ValueError: it has others.
    """
    if model.model.latent_format.latent_dimensions != samples.ndim - 2:
        raise ValueError(
            f"{node}: {name}: found a latent of shape {tuple(samples.shape)}, which is none of this MODEL's "
            f"({type(model.model).__name__}); encode the picture with the VAE that comes with the model."
        )
    check_channels(samples, model, node, name)


def check_channels(samples: Tensor, model: Any, node: str, name: str = "latent") -> None:
    """Whether latents of pictures, (B, C, ...), have the channels that a MODEL reads.

    :raises ValueError: they have others.
    """
    latents = model.model.latent_format
    if samples.shape[1] != latents.latent_channels:
        raise ValueError(
            f"{node}: {name}: found a latent of {samples.shape[1]} channels, expected {latents.latent_channels} for "
            f"this MODEL ({type(model.model).__name__}); encode the picture with the VAE that comes with the model."
        )


def check_inversion(inversion: Inversion, model: Any, node: str, name: str = "inversion") -> None:
    """Whether an INVERSION was made with a MODEL.

    :raises ValueError: it was made with another one, or its latents are none of this MODEL's.
    """
    try:
        check_same_model(inversion, fingerprint(model))
    except ValueError as error:
        raise ValueError(f"{node}: {name}: {error}") from None
    infos = attention_layers(model)
    check_channels(inversion.trajectory[0], model, node, name)
    if inversion.layers and inversion.layers != infos:
        raise ValueError(
            f"{node}: {name}: found features of {len(inversion.layers)} attention layers, expected those of this "
            f"MODEL's {len(infos)}; invert the picture again with the model that you sample with."
        )


def check_pivots(pivots: Pivots, model: Any, node: str, name: str = "pivots") -> None:
    """Whether PIVOTS are prompts that a MODEL reads.

    :raises ValueError: they are not.
    """
    found, expected = pivots.contexts.shape[2], context_width(model)
    if expected is not None and found != expected:
        raise ValueError(
            f"{node}: {name}: found contexts {found} wide, expected {expected} for this MODEL "
            f"({type(model.model).__name__}); find them again with Pivot Inversion."
        )


def check_decodes(samples: Tensor, vae: Any, node: str, name: str = "latent") -> None:
    """Whether a VAE decodes a picture's LATENT.

    :param samples: (B, C, h, w).
    :raises ValueError: it decodes others.
    """
    check_whole(vae, node)
    channels, factor, dimensions = _kind(vae, (samples.shape[1], 0, 2))
    if dimensions != 2 or samples.shape[1] != channels:
        raise ValueError(
            f"{node}: {name}: found a latent of {samples.shape[1]} channels, expected {channels}, as the VAE "
            f"{_said(channels, factor, dimensions)} makes them; connect the VAE that the latent was made with."
        )


def check_levels(model: Any, steps: int) -> None:
    """Whether a MODEL has noise levels enough for a schedule.

    :raises ValueError: it has not; the message says why some have few.
    """
    levels = len(sigma_table(model))
    if levels <= steps:
        raise ValueError(
            f"steps is {steps}, but this MODEL has {levels} noise levels only, so at most {levels - 1} steps. So few "
            "come from Model Sampling Discrete (lcm), or from a model that was distilled to a few steps: take that "
            "node off this MODEL, or lower steps."
        )


def foreign_levels(model: Any, levels: Sequence[float]) -> str | None:
    """What is to be said where a MODEL's noise levels are not those under which a picture was inverted.

    :param levels: of the inversion; all but 0 were levels of the MODEL that inverted.
    """
    table = sigma_table(model)
    positive = torch.tensor([level for level in levels if level > 0])
    distance = (table[:, None] - positive).abs().amin(0) / positive
    if not bool((distance > TOLERANCE).any()):
        return None
    return (
        f"the inversion's levels (sigma {float(positive.min()):.3f} to {float(positive.max()):.3f}) are none of this "
        f"MODEL's {len(table)}, so it draws by another schedule than it inverted; put Model Sampling Discrete on both "
        "MODELs, or on neither."
    )


def _kind(vae: Any, like: tuple[int, int, int]) -> tuple[int, int, int]:
    """Channels of a VAE's latents, pixels a latent covers, and axes (3 for video).

    :param like: what counts where a VAE of another pack does not say.
    """
    channels, dimensions = getattr(vae, "latent_channels", like[0]), getattr(vae, "latent_dim", like[2])
    return channels, vae.spacial_compression_encode(), dimensions


def _said(channels: int, factor: int, dimensions: int) -> str:
    kind = {1: "for sound, ", 3: "for video, "}.get(dimensions, "")
    return f"{kind}of {channels} channels at {factor} pixels a latent"
