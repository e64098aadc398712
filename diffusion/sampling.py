"""Sampling loops with k-diffusion's head: ``sampler(model, x, sigmas, extra_args, callback, disable)``.

``model(x, sigma, **extra_args)`` returns the clean estimate; ``sigma`` has one entry a row. The same functions are
ComfyUI SAMPLERs and run under diffusers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import trange

from ..settings import Settings, setting
from .levels import TOLERANCE, same_levels
from .schedule import rescale

#: (x, sigma, **extra_args) -> clean estimate; x and the estimate are (B, C, h, w), sigma is (B,).
Denoiser = Callable[..., Tensor]


@dataclass(frozen=True)
class GuidanceSettings(Settings):
    """Classifier-free colorization guidance (Kosugi 2025)."""

    guidance: float = setting(
        10.0,
        "w. 0 is the plain model without the reference; 1 takes the injected prediction as it is and halves the cost; "
        "higher amplifies the difference and gives fuller colors. Far above what the model recommends colors bleed.",
        low=0.0,
        high=100.0,
        step=0.5,
        round=0.01,
        auto=True,
        formerly="weight",
    )
    step_limit: bool = setting(
        False,
        "Off uses guidance at every level. On lowers it where the sampler's next step takes away so much of the noise "
        "that the step would go beyond the reference's colors: to 1 / (the share taken away), so 1 in the last step. "
        "Then high guidance stays calm with few steps.",
        advanced=True,
        later=True,
    )


def to_eps(x: Tensor, sigma: float | Tensor, denoised: Tensor) -> Tensor:
    """The noise prediction behind a clean estimate, (B, C, h, w)."""
    return (x - denoised) / sigma


@torch.no_grad()
def sample_ddim(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
) -> Tensor:
    """Deterministic DDIM (Song et al. 2021, arXiv 2010.02502, eq. 12 with η = 0): Euler's method in this convention.

    Unlike the stock ``euler`` it may end above sigma 0, where the officials stop.

    :param x: (B, C, H, W) at ``sigmas[0]``; returned at ``sigmas[-1]``.
    """
    extra_args = extra_args or {}
    ones, levels = x.new_ones([x.shape[0]]), sigmas.cpu().tolist()
    for i in trange(len(levels) - 1, disable=disable):
        sigma = levels[i]
        denoised = model(x, sigma * ones, **extra_args)
        if callback is not None:
            callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised})
        x = x + to_eps(x, sigma, denoised) * (levels[i + 1] - sigma)
    return x


def scaled_ends(sample: Callable[..., Tensor], first: float, last: float) -> Callable[..., Tensor]:
    """A sampling loop whose latent is multiplied on its way in and on its way out.

    Hosts and programs disagree about how large noise is at the first level, and whether what is left at the last one is
    read as clean (see ``schedule.rescale``).

    :param first: factor of the latent that the loop starts from.
    :param last: factor of its result.
    """

    def scaled(model: Denoiser, x: Tensor, sigmas: Tensor, *args: Any, **options: Any) -> Tensor:
        return sample(model, x * first, sigmas, *args, **options) * last

    return scaled


@torch.no_grad()
def invert_ddim(  # the head that all samplers have, and three options
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
    *,
    reads: tuple[float, ...] | None = None,
    read_as: Callable[[Tensor, float, float], Tensor] = rescale,
    refinements: int = 0,
    visit: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """DDIM inversion: the same steps, upward.

    A step from level l to level n needs the noise at n, which is not known yet; it is taken from the latent at l, read
    as ``reads`` says. ``refinements`` iterates that to a fixed point, so that the way back retraces the climb (the idea
    of Pan et al. 2023, arXiv 2309.04907): each one costs a model call a step and needs ``reads`` at the upper level.

    :param x: (B, C, H, W) at ``sigmas[0]``; returned at ``sigmas[-1]``.
    :param sigmas: ascending levels, the first may be 0.
    :param callback: called after every model call.
    :param reads: sigma at which the model is read in each step; default: the upper level.
    :param read_as: latent, its level, the level it is read at -> what the model is asked about. Flow matching has the
        same steps, with velocities in place of noise, and asks about the latent as it is.
    :param visit: called with the latent at every level, the first included.
    """
    extra_args = extra_args or {}
    levels = sigmas.cpu().tolist()
    reads = tuple(levels[1:]) if reads is None else reads
    if len(reads) != len(levels) - 1 or min(reads) <= 0:
        raise ValueError(f"{len(levels) - 1} steps need as many positive reads; got {reads}.")
    if refinements and not same_levels(reads, levels[1:]):
        raise ValueError("Fixed-point refinement needs the model to be read at the upper level of each step.")
    ones = x.new_ones([x.shape[0]])
    if visit is not None:
        visit(x)
    for i in trange(len(levels) - 1, disable=disable):
        sigma, sigma_next, sigma_hat = levels[i], levels[i + 1], reads[i]
        x_hat = read_as(x, sigma, sigma_hat)
        denoised = model(x_hat, sigma_hat * ones, **extra_args)
        x_next = x + to_eps(x_hat, sigma_hat, denoised) * (sigma_next - sigma)
        for left in range(refinements, -1, -1):
            if callback is not None:  # after every call: progress counts them, and a user may cancel between two
                callback({"x": x, "i": i, "sigma": sigma_next, "sigma_hat": sigma_next, "denoised": denoised})
            if left:
                denoised = model(x_next, sigma_hat * ones, **extra_args)
                x_next = x + to_eps(x_next, sigma_hat, denoised) * (sigma_next - sigma)
        x = x_next
        if visit is not None:
            visit(x)
    return x


def limited_weight(weight: float, sigma: float, sigmas: Sequence[float]) -> float:
    """The weight of colorization guidance that a step can take: at most 1 / (the share of noise that it removes).

    What the injection puts in does not depend on the colors that the latent has already, while the plain prediction
    returns most of them. So the guided estimate answers a color in the latent with about (1 - w) of it, and a step from
    sigma to q · sigma leaves q + (1 - q) · (1 - w) = 1 - (1 - q) · w: below 0 it goes beyond the reference's colors,
    and below -1 every step is further off than the one before.

    :param sigma: at which the model is read; between two levels it belongs to the step that ends at the next one.
    :param sigmas: (T+1,) descending levels of the run; where they are not known the weight stays as it is.
    """
    if not len(sigmas):
        return weight
    below = [level for level in sigmas if level < sigma * (1 - TOLERANCE)]
    share = 1 - max(below, default=0.0) / sigma
    return min(weight, max(1.0, 1 / share))


def guide(color: Tensor, plain: Tensor, weight: float) -> Tensor:
    """Classifier-free colorization guidance (Kosugi 2025): plain + w · (color − plain), all (B, C, h, w)."""
    return plain + weight * (color - plain)
