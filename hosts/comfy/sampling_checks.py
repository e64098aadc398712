"""What is said, once a run, of a sampler and its levels under color injection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ...diffusion.inversion import Inversion
from ...diffusion.sampler_checks import latent_level, level_warnings, sampler_warnings
from .sampling import StepLimitedGuider

if TYPE_CHECKING:
    from .edits import Sampling


def sampling_warnings(
    run: Sampling, source: Inversion, kept: Sequence[float], to_model: Callable[[Tensor], Tensor]
) -> list[str]:
    """Warnings about a sampling that is about to begin.

    :param source: the inputs' inversion.
    :param kept: levels with features, highest first.
    :param to_model: latents in a LATENT's scale -> in the model's.
    """
    function = getattr(run.sampler, "sampler_function", None)  # KSAMPLER's; other samplers are not known
    sigmas = [float(sigma) for sigma in run.sigmas]
    level = None if bool(run.noise.any()) else latent_level(source, to_model(run.latent.float()))
    return [
        *sampler_warnings(
            getattr(function, "__name__", ""),
            getattr(run.guider, "cfg", None),
            sigmas,
            step_limit=isinstance(run.guider, StepLimitedGuider),
        ),
        *level_warnings(sigmas, kept, level),
    ]
