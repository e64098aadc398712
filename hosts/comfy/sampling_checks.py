"""What a sampling must begin with, and what is said, once a run, of a sampler and its levels under color injection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import comfy.samplers
from torch import Tensor

from ...color.tensors import FLOATS, check_finite, check_tensor
from ...diffusion.inversion import Inversion
from ...diffusion.sampler_checks import latent_level, level_warnings, rises, sampler_warnings
from .fits import check_latent
from .latents import as_latents
from .sampling import StepLimitedGuider

if TYPE_CHECKING:
    from .edits import Sampling


def check_run(
    model: Any, noise: Any, latent: Any, sampler: Any, sigmas: Any, node: str, *, falling: bool = False
) -> None:
    """Whether latents and levels are ones that a MODEL can sample.

    :param node: display name of the node that takes part, for messages.
    :param falling: what it does makes sense downward only. Others take levels that rise as plain sampling does:
        FlipSigmas noises a picture by them, and schedules that restart rise once.
    :raises ValueError: latents of another family or not finite, or levels that are none.
    """
    frames = model.model.latent_format.latent_dimensions == 3
    for name, samples in (("latent", latent), ("noise", noise)):
        as_latents({"samples": samples}, f"{node}: {name}", frames=frames)
        check_latent(samples, model, node, name)
    function = getattr(sampler, "sampler_function", None)
    stock = getattr(function, "__module__", "").startswith("comfy.")  # ComfyUI's own divide by each level but the last
    _check_levels(sigmas, node, falling, falling or stock)


def _check_levels(sigmas: Any, node: str, falling: bool, positive: bool) -> None:
    """Whether sigmas are noise levels.

    :param sigmas: (N+1,); with a single one, or none, nothing is sampled.
    :param positive: whether only the last may be 0.
    :raises ValueError: they are not, or rise where they must fall.
    """
    limit = "above 0 but for the last" if positive else "none below 0"
    asked, expected = f"{node}: sigmas", f"{'levels that fall' if falling else 'noise levels'}, {limit}"
    check_tensor(sigmas, asked, expected)
    if sigmas.ndim != 1 or sigmas.dtype not in FLOATS:
        raise ValueError(
            f"{asked}: found {sigmas.dtype} of shape {tuple(sigmas.shape)}, expected {expected}; connect a scheduler."
        )
    levels = sigmas.cpu().tolist()
    check_finite(sigmas, asked, expected)
    if (falling and rises(levels)) or min(levels, default=0) < 0 or (positive and 0 in levels[:-1]):
        raise ValueError(
            f"{asked}: found {', '.join(f'{level:.3g}' for level in levels[:8])}{' ...' if len(levels) > 8 else ''}, "
            f"expected {expected}; connect a scheduler, or the sigmas of DDIM Inversion."
        )


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
