"""Noise levels: DDIM's grid, and the plans by which an inversion climbs and a sampler comes back.

Latents are variance-exploding, ``x = x0 + sigma · noise`` (k-diffusion's and ComfyUI's convention). The papers write
variance-preserving ones, ``z = x / sqrt(1 + sigma²)``. In the former every DDIM step, up or down, is one Euler step.

Official programs differ in two things only: at which level the network is *read* while the latent moves from one level
to the next, and what the first and last levels are. Both are spelled out here, once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

Convention = Literal["consistent", "official", "diffusers"]

#: Of a flow: beyond this time too little of the picture is in its latents to be found again in numbers.
MOST_TIME = 0.999


def ddim_timesteps(steps: int, train_timesteps: int = 1000) -> list[int]:
    """DDIM's uniform grid with offset 1, ascending: 1, 21, ..., 981 for 50 steps of 1000.

    Where ``steps`` does not divide the training length the grid has more entries than asked for (13 for 12), as in the
    latent diffusion code and in ComfyUI's ``ddim_uniform``; the spacing is what counts.
    """
    if not 1 <= steps < train_timesteps:
        raise ValueError(f"The schedule has {steps} steps; it must have between 1 and {train_timesteps - 1}.")
    return list(range(1, train_timesteps, train_timesteps // steps))


def sigmas_from_alphas(alphas_cumprod: Tensor) -> Tensor:
    """Training sigmas, ascending: sqrt(1/ᾱ − 1), computed in float64; on the CPU, whose numbers cost nothing to ask."""
    alphas = alphas_cumprod.cpu().double()
    return ((1 - alphas) / alphas).sqrt().float()


def fractional_timestep(sigma_table: Tensor, sigma: Tensor) -> Tensor:
    """The timestep of any sigma, linear in log sigma between training sigmas (k-diffusion's ``sigma_to_t``).

    :param sigma_table: (train timesteps,) ascending sigmas.
    :returns: of sigma's shape and dtype, 0 to the last timestep.
    """
    table = _finest(sigma_table).log()
    log_sigma = sigma.to(table).log().clamp(table[0], table[-1])
    above = torch.searchsorted(table, log_sigma).clamp(1, len(table) - 1)
    low, high = table[above - 1], table[above]
    return (above - 1 + (log_sigma - low) / (high - low)).to(sigma)


def _finest(numbers: Tensor) -> Tensor:
    """The same in float64, or in float32 where the device has no more (MPS): 1e-4 of a timestep."""
    try:
        return numbers.double()
    except (TypeError, RuntimeError):
        return numbers.float()


def ancestral_sigmas(sigma_table: Tensor, steps: int) -> Tensor:
    """Levels of k-diffusion's samplers at evenly spaced, fractional timesteps, descending, (steps + 1,); the last is 0.

    :param sigma_table: (train timesteps,) ascending sigmas of the model.
    :raises ValueError: steps below 1.
    """
    if steps < 1:
        raise ValueError(f"The schedule has {steps} steps; it must have at least 1.")
    table = sigma_table.cpu().double().log()
    timesteps = torch.linspace(len(table) - 1, 0, steps, dtype=torch.float64)
    low = timesteps.floor().long().clamp(max=len(table) - 2)
    sigmas = torch.lerp(table[low], table[low + 1], timesteps - low).exp().to(sigma_table)
    return torch.cat([sigmas, torch.zeros_like(sigmas[:1])])


def rescale(x: Tensor, sigma_from: float | Tensor, sigma_to: float | Tensor) -> Tensor:
    """Take a latent of one level, unchanged in variance-preserving form, as though it belonged to another level."""
    a, b = float(sigma_from), float(sigma_to)
    return x * math.sqrt((1 + b * b) / (1 + a * a))


def sampling_sigmas(sigma_table: Tensor, steps: int, convention: Convention = "consistent") -> Tensor:
    """Levels of plain DDIM sampling from noise, descending, (steps + 1,).

    ``consistent`` ends at 0, as ComfyUI's ``ddim_uniform`` does. ``official`` is the latent diffusion programs' habit
    of stopping at the smallest training sigma and reading the result as clean: the same variance-preserving numbers, so
    the caller takes the last latent through ``rescale(x, sigmas[-1], 0)``.

    :param sigma_table: (train timesteps,) ascending sigmas of the model.
    :raises ValueError: steps or convention out of range.
    """
    _check_convention(convention)
    sigmas = sigma_table[ddim_timesteps(steps, len(sigma_table))].flip(0)
    last = sigma_table[:1] if convention == "official" else torch.zeros_like(sigma_table[:1])
    return torch.cat([sigmas, last])


def _check_convention(convention: str) -> None:
    if convention not in get_args(Convention):
        raise ValueError(f"convention is '{convention}'; expected one of {', '.join(get_args(Convention))}.")


def closer_levels(sigmas: Sequence[float], ratio: float) -> tuple[float, ...]:
    """Levels with others between them, so that none is below ``ratio`` times the one before it.

    The new ones are evenly spaced in log sigma between two old ones; a last 0 stays as it is.

    :param sigmas: (T+1,) descending.
    :param ratio: from 0, which adds none, to below 1.
    :raises ValueError: another ratio.
    """
    if not 0 <= ratio < 1:
        raise ValueError(f"The ratio of neighboring levels is {ratio}; it must be at least 0 and below 1.")
    levels: list[float] = []
    for high, low in pairwise(sigmas):
        # a hair less, so that levels at exactly this ratio stay as they are
        parts = math.ceil(math.log(high / low) / -math.log(ratio) - 1e-6) if ratio > 0 and low > 0 else 1
        levels += [high, *(high * (low / high) ** (i / parts) for i in range(1, parts))]
    return (*levels, *sigmas[-1:])


@dataclass(frozen=True)
class InversionPlan:
    """How an inversion climbs, and the way back.

    :param levels: (K+1,) ascending sigmas that the latent visits; the clean latent is put at ``levels[0]``.
    :param reads: (K,) sigma at which the network is read in each step.
    :param sigmas: (T+1,) descending sigmas of the way back, for any sampler.
    :param flow: levels are times of flow matching, x = (1 - t) · x0 + t · noise: then latents of one level are nowhere
        read as those of another.
    """

    convention: Convention
    steps: int
    depth: int
    levels: tuple[float, ...]
    reads: tuple[float, ...]
    sigmas: tuple[float, ...]
    flow: bool = False

    @property
    def is_ordered(self) -> bool:
        """Whether there are levels, finite ones, that rise on the way up and fall on the way back."""
        ways = (self.levels, self.sigmas[::-1])
        return bool(self.reads) and all(
            len(way) > 1 and way[0] >= 0 and all(low < high < math.inf for low, high in pairwise(way)) for way in ways
        )

    @property
    def kept_sigmas(self) -> tuple[float, ...]:
        """Levels at which the way back reads the network, so where features are worth keeping."""
        return self.sigmas[:-1]

    def from_clean(self, latent: Tensor) -> Tensor:
        """Put a clean latent at the first level."""
        return self.read_as(latent, 0.0, self.levels[0])

    def to_sampling(self, x: Tensor) -> Tensor:
        """Hand the latent at the top of the climb to the way back.

        Under the official convention this is the jump from the level that was reached to a lower one: the same
        variance-preserving numbers, read two grid steps lower.
        """
        return self.read_as(x, self.levels[-1], self.sigmas[0])

    def read_as(self, x: Tensor, level: float, other: float) -> Tensor:
        """A latent of one level as the model is asked about it at another, see :func:`rescale`."""
        return x if self.flow else rescale(x, level, other)

    def as_given(self, x: Tensor) -> Tensor:
        """The start of the way back as samplers are given it that add no noise.

        A flow's mix the latents that they are given with the noise that they add, also where that is none: they take
        (1 - t) of them.
        """
        return x / (1 - self.sigmas[0]) if self.flow else x

    def to_clean(self, x: Tensor) -> Tensor:
        """The clean latent from what a sampler returns at the last level."""
        return self.read_as(x, self.sigmas[-1], 0.0)


def inversion_plan(
    sigma_table: Tensor,
    steps: int = 50,
    depth: int = 5,
    convention: Convention = "consistent",
    *,
    flow: bool = False,
) -> InversionPlan:
    """The plan of a DDIM inversion over the lowest part of a ``steps``-step schedule.

    ``official`` is the published program of Kosugi 2025: the clean latent is taken to be at timestep 1, the network is
    read at the lower end of each step, the climb takes depth + 1 steps (to timestep 121 for depth 5 of 50), and the
    result is read as though it were two grid steps lower (81); the way back ends at the smallest training sigma.

    ``consistent`` climbs 0 -> t₀ -> t₁ ... reading the network at the upper end of each step, and comes back down the
    very levels that it went up, to 0: the tail of ComfyUI's ``ddim_uniform`` schedule. It takes ``depth`` steps.

    ``diffusers`` is the same with the smallest training sigma in place of 0: the published programs of VCT, null-text
    inversion and prompt-to-prompt, whose scheduler is diffusers' with ``set_alpha_to_one=False`` and offset 1.

    :param sigma_table: (train timesteps,) ascending sigmas of the model.
    :param depth: number of steps on the way back.
    :param flow: the sigmas are times of flow matching, for which there is the first convention only.
    :raises ValueError: steps, depth or convention out of range.
    """
    grid = ddim_timesteps(steps, len(sigma_table))
    _check_convention(convention)
    if flow and convention != "consistent":
        raise ValueError(
            f"convention: found {convention}, expected consistent, the only one for models of flow matching; choose it."
        )
    most = len(grid) - 1 if convention == "official" else len(grid)
    if most < 1:
        raise ValueError(f"An official inversion needs a schedule of at least 2 steps; this one has {steps}.")
    if not 1 <= depth <= most:
        raise ValueError(
            f"depth is {depth}, expected 1 to {most}, as an inversion ({convention}) over {steps} steps can be; lower "
            "the depth or raise the steps."
        )
    table = sigma_table.cpu().tolist()
    way_back = [table[t] for t in reversed(grid[:depth])]
    if convention != "official":
        lowest = 0.0 if convention == "consistent" else table[0]
        levels = [lowest, *(table[t] for t in grid[:depth])]
        if flow and levels[-1] > MOST_TIME:
            raise ValueError(
                f"depth is {depth} of {steps} steps, which leaves nothing of the picture, expected one below; lower it."
            )
        return InversionPlan(convention, steps, depth, tuple(levels), tuple(levels[1:]), (*way_back, lowest), flow)
    last = len(table) - 1
    pitch = len(table) // steps
    timesteps = grid[: depth + 1]
    levels = [table[timesteps[0]], *(table[min(t + pitch, last)] for t in timesteps)]
    return InversionPlan(
        convention, steps, depth, tuple(levels), tuple(table[t] for t in timesteps), (*way_back, table[0])
    )
