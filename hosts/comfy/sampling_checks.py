"""What is said, once a run, of a sampler and its levels under color injection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import comfy.samplers
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
            _weight(run.guider),
            sigmas,
            step_limit=isinstance(run.guider, StepLimitedGuider),
        ),
        *level_warnings(sigmas, kept, level),
    ]


def _weight(guider: Any) -> float | None:
    """The weight of classifier-free guidance; None where a guider has another kind, such as two weights."""
    stock = comfy.samplers.CFGGuider.set_cfg
    return guider.cfg if getattr(type(guider), "set_cfg", None) is stock else None
