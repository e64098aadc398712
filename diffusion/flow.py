"""Further ways up: a second-order inversion, and one that is controlled, as flow matching has them.

A model of flow matching moves latents x = (1 - t) · x0 + t · noise along dx/dt = (x - x0(x, t)) / t, which is Euler's
way of a variance-exploding model too (``sampling.invert_ddim``): the same samplers serve both, levels are called sigma.

The controlled inversion is that of RF-Inversion (Rout et al. 2024, arXiv 2410.10792, eq. 8 and 15): on the way up the
velocity is drawn toward the one that leads to a given noise, so that the end is noise of the kind that the model knows;
on the way back toward the one that leads to the picture. There that is the same as drawing the clean estimate to the
picture, so that any sampler can be controlled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import trange

from .levels import TOLERANCE
from .sampling import Denoiser, to_eps

#: Called after every model call with what k-diffusion's callbacks get.
Callback = Callable[[dict[str, Any]], None]


def invert_heun(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    *,
    visit: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """The climb in steps of second order: a guess by the velocity at the lower level, then the mean of both ends'.

    Every call is at the upper level of its step, so that features are those of the levels; two calls a step. The first
    step begins at 0, where a clean estimate says nothing of the velocity, and takes that of its end.

    :param x: (B, C, ...) at ``sigmas[0]``; returned at ``sigmas[-1]``. Best in float32, as hosts hand it over: the next
        step uses the velocity at the first level, (x - x0) / t, where a small t makes much of what was rounded.
    :param sigmas: ascending levels, the first may be 0.
    :param callback: called after every model call.
    :param visit: called with the latent at every level, the first included.
    """
    extra_args, levels, ones = extra_args or {}, sigmas.cpu().tolist(), x.new_ones([x.shape[0]])
    velocity: Tensor | None = None

    def ask(latent: Tensor, level: float, step: int) -> Tensor:
        denoised = model(latent, level * ones, **extra_args)
        if callback is not None:
            callback({"x": latent, "i": step, "sigma": level, "sigma_hat": level, "denoised": denoised})
        return to_eps(latent, level, denoised)

    if visit is not None:
        visit(x)
    for i in trange(len(levels) - 1, disable=disable):
        low, high = levels[i], levels[i + 1]
        lower = ask(x, high, i) if velocity is None else velocity
        upper = ask(x + lower * (high - low), high, i)
        x = x + (upper if velocity is None else (lower + upper) / 2) * (high - low)
        velocity = upper if i == len(levels) - 2 else ask(x, high, i)
        if visit is not None:
            visit(x)
    return x


def invert_controlled(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    *,
    control: float,
    noise: Tensor,
    visit: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """The climb of a flow, drawn toward given noise (RF-Inversion): v + control · ((noise - x) / (1 - t) - v).

    :param x: (B, C, ...) at ``sigmas[0]``; returned at ``sigmas[-1]``, which is below 1.
    :param sigmas: ascending times, the first may be 0.
    :param control: gamma, 0 (the model's own way) to 1 (straight to the noise).
    :param noise: like ``x``, of unit variance, or one for all.
    :param visit: called with the latent at every level, the first included.
    :raises ValueError: a time of 1, where no way is left.
    """
    extra_args, levels, ones = extra_args or {}, sigmas.cpu().tolist(), x.new_ones([x.shape[0]])
    if levels[-1] >= 1:
        raise ValueError(f"sigmas: found a time of {levels[-1]:g}, expected some below 1; invert less deep.")
    if visit is not None:
        visit(x)
    for i in trange(len(levels) - 1, disable=disable):
        low, high = levels[i], levels[i + 1]
        denoised = model(x, high * ones, **extra_args)
        if callback is not None:
            callback({"x": x, "i": i, "sigma": high, "sigma_hat": high, "denoised": denoised})
        own, straight = to_eps(x, high, denoised), (noise - x) / (1 - low)
        x = x + torch.lerp(own, straight, control) * (high - low)
        if visit is not None:
            visit(x)
    return x


def drawn_to(denoised: Tensor, picture: Tensor, control: float) -> Tensor:
    """A clean estimate on a controlled way back: v + eta · ((x - picture) / t - v), which is v of this one.

    :param denoised: (B, C, ...); ``picture`` likewise, or one for all.
    :param control: eta, 0 (the model's own) to 1 (the picture).
    """
    return torch.lerp(denoised, picture.to(denoised).expand_as(denoised), control)


def drawn(model: Denoiser, picture: Tensor, control: float, until: float = 0.0) -> Denoiser:
    """A model whose way back is controlled at high times and its own below (RF-Inversion: eta up to a stop time).

    :param picture: (B, C, ...) clean latents, or one for all.
    :param control: eta, see :func:`drawn_to`; 0 is the model itself.
    :param until: the time below which the model is left alone; that time itself is still controlled.
    """

    def controlled(x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        denoised = model(x, sigma, **extra_args)
        weight = control * (sigma >= until * (1 - TOLERANCE)).to(denoised).view(-1, *[1] * (x.ndim - 1))
        return torch.lerp(denoised, picture.to(denoised).expand_as(denoised), weight)

    return controlled
