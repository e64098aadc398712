"""Pivot inversion on ComfyUI's MODEL and CONDITIONING."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch

from ...diffusion.inversion import Inversion
from ...diffusion.learning import HALF_SCALE, drain_or_spare
from ...diffusion.pivot import PivotOptions, PivotProgress, Pivots, search_pivots
from .borrowed import BorrowedNetworks, gradients
from .gradients import DifferentiableUNet, clone_for_autograd
from .memory import out_of_memory


def find_pivots(
    model: Any,
    conditioning: list,
    inversion: Inversion,
    options: PivotOptions,
    on_iteration: Callable[[PivotProgress], None],
    checkpointing: bool = False,
) -> tuple[Pivots, bool]:
    """Search the unconditional contexts of an inverted picture, see ``diffusion.pivot.search_pivots``.

    :param conditioning: what the inversion was made under; its first entry is used.
    :param on_iteration: called after every iteration; what it raises ends the search.
    :returns: the pivots, and whether activations were computed again, asked for or because memory was short.
    :raises ValueError: several prompts, or what the search refuses.
    """
    context, extras = single_prompt(conditioning)
    shape = tuple(inversion.trajectory.shape[1:])
    with gradients(), BorrowedNetworks() as networks:
        unet = DifferentiableUNet(model, extras, checkpointing, shape, networks)
        if unet.half:
            options = replace(options, gradient_scale=HALF_SCALE)
        copied = replace(inversion, trajectory=clone_for_autograd(inversion.trajectory, unet.device))
        prompt = clone_for_autograd(context, unet.device)
        pivots = drain_or_spare(
            lambda: search_pivots(unet, copied, prompt, options=options), on_iteration, unet.spare, out_of_memory
        )
        return pivots, unet.checkpointing


def single_prompt(conditioning: list) -> tuple[torch.Tensor, dict[str, Any]]:
    """(context, the rest) of a CONDITIONING of one prompt.

    :raises ValueError: none or several.
    """
    if len(conditioning) != 1:
        raise ValueError(
            f"conditioning: found {len(conditioning)} prompts (combined, or scheduled over steps), expected one "
            "prompt; connect a plain CLIP Text Encode."
        )
    context, extras = conditioning[0]
    return context, extras


def unconditional_schedule(model: Any, pivots: Pivots, conditioning: list) -> list:
    """The contexts as a CONDITIONING that stock samplers read: each is in force around its own step only.

    The ranges meet half-way between the training timesteps of neighboring steps, so a sampler that visits the same
    levels finds one context at each, and another sampler finds one at every level.
    """
    _, extras = single_prompt(conditioning)
    sampling = model.get_model_object("model_sampling")
    last = len(sampling.sigmas) - 1
    steps = [float(sampling.timestep(torch.tensor(sigma))) for sigma in pivots.sigmas]
    borders = [1 - (a + b) / 2 / last for a, b in pairwise(steps)]
    starts, ends = [0.0, *borders], [*borders, 1.0]
    return [
        [context.unsqueeze(0).clone(), {**extras, "start_percent": start, "end_percent": end}]
        for context, start, end in zip(pivots.contexts, starts, ends, strict=True)
    ]
