"""The samplings of published programs as ComfyUI's SAMPLER and SIGMAS."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import comfy.k_diffusion.sampling
import comfy.samplers
from torch import Tensor

from ...diffusion.sampling import sample_ddim, scaled_ends
from ...diffusion.schedule import ancestral_sigmas, sampling_sigmas
from ...pipelines.published_sampler import PublishedSamplerSettings
from .families.found import require_network
from .fits import check_levels
from .model import sigma_table
from .sampling_checks import check_run


def published_sampling(model: Any, settings: PublishedSamplerSettings, node: str) -> tuple[Any, Tensor]:
    """A published program's sampler and levels for a MODEL, to be started from an empty latent.

    ``ddim`` is the latent diffusion programs' (DEADiff's and L-CAD's): it starts from noise of unit variance, stops at
    the smallest training sigma, and what it has there is read as clean. ``euler_ancestral`` is DEADiff's other one:
    k-diffusion's, at evenly spaced fractional timesteps, and its noise starts as large as sigma.

    :raises ValueError: another family of models, or steps out of range.
    """
    require_network(model, node)
    check_levels(model, settings.steps)
    table = sigma_table(model)
    if settings.sampler_name == "ddim":
        sigmas = sampling_sigmas(table, settings.steps, "official")
        loop, large, last = sample_ddim, math.hypot(1, float(sigmas[0])), 1 / math.hypot(1, float(sigmas[-1]))
    else:
        sigmas = ancestral_sigmas(table, settings.steps)
        loop, large, last = comfy.k_diffusion.sampling.sample_euler_ancestral, float(sigmas[0]), 1.0
    noise = float(sigmas[0])
    if math.isclose(noise, float(table[-1]), rel_tol=1e-5):
        noise = math.hypot(1, noise)  # ComfyUI's noise at the largest level
    return _CheckedSampler(scaled_ends(loop, large / noise, last), model, node), sigmas


class _CheckedSampler(comfy.samplers.KSAMPLER):
    """A sampler that looks at latents and levels before it begins."""

    def __init__(self, loop: Callable[..., Tensor], model: Any, node: str) -> None:
        super().__init__(loop)
        self.model, self.node = model, node

    def sample(
        self,
        model_wrap: Any,
        sigmas: Any,
        extra_args: Any,
        callback: Any,
        noise: Any,
        latent_image: Any = None,
        *args: Any,
        **kw: Any,
    ) -> Any:
        """What ComfyUI's own makes of them."""
        start = noise if latent_image is None else latent_image
        check_run(self.model, noise, start, self, sigmas, self.node, falling=True)
        return super().sample(model_wrap, sigmas, extra_args, callback, noise, latent_image, *args, **kw)
