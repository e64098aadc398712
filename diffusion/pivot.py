"""Pivot turning inversion: per-step unconditional contexts under which guided sampling retraces an inversion.

Cheng et al., ICCV 2023, arXiv 2307.14352, section 3.3 (VCT), after null-text inversion (Mokady et al., CVPR 2023,
arXiv 2211.09794, algorithm 1). At every step of the way back the unconditional context is optimized until the guided
step lands on the latent that the inversion passed; each step starts from the context of the step before.

The released program differs from what one would write in four places, all of them values of :class:`PivotOptions`:
the learning rate falls by a hundredth a step whatever the number of steps, the loss that ends the search grows by 2e-5
a step, the update that belongs to the stopping loss is kept, and the latent always advances under guidance 7.5. That
its conditional prompt is the empty one is the caller's choice.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import inf, isfinite, log

import torch
from torch import Tensor

from ..color.held import Held
from ..color.tensors import FLOATS, check_finite, check_tensor
from ..settings import Settings, setting
from .inversion import Inversion, round_trip_error
from .sampling import guide, to_eps
from .schedule import rescale

#: ``predict(x, sigma, context) -> clean estimate`` of x (B, C, h, w) under one context (1, tokens, width),
#: differentiable in the context.
Predict = Callable[[Tensor, float, Tensor], Tensor]

#: Level 0 has no logarithm; it is looked up as this.
_LOWEST = 1e-6


#: Below it guidance is none, and the plain inversion holds the picture.
LEAST_GUIDANCE = 1.01


@dataclass(frozen=True)
class PivotOptions(Settings):
    """How the unconditional contexts are searched for. The defaults are the released program's.

    :param advance_cfg: weight under which the latent advances; None: ``cfg``. Released: 7.5, always.
    :param learning_rate_steps: the rate falls linearly to 0 over this many steps. Released: 100, always.
    :param stop_growth: what ``stop_below`` grows by for every step taken.
    :param keep_last_update: the released program updates, then looks at the loss that it had before; the context has
        then moved once more, and the network must be asked again. False looks first: a step whose loss is low enough
        costs no backward pass, and the prediction at hand serves to advance.
    :param gradient_scale: the loss is multiplied by this before the backward pass and the gradient divided by it
        after, so that half precision does not lose it (``learning.HALF_SCALE``). A power of two changes nothing in
        float32.
    """

    cfg: float = setting(
        7.5,
        "The cfg that the picture must survive. Low is easy and steers little later; high steers more and needs more "
        "iterations. Sample with the same value.",
        low=LEAST_GUIDANCE,
        high=30.0,
        step=0.5,
        round=0.01,
        auto=True,
        formerly="guidance",
    )
    advance_cfg: float | None = 7.5
    iterations: int = setting(
        50,
        "Most updates a step. Low is fast and leaves an error; high comes closer. A step ends early when its loss is "
        "low enough.",
        low=1,
        high=500,
        auto=True,
        recommended_as="pivot_iterations",
    )
    learning_rate: float = setting(
        1e-2,
        "Learning rate of the first step; it falls by a hundredth of itself a step, whatever the number of steps, so "
        "100 steps are the most. Low converges slowly, high overshoots.",
        low=1e-5,
        high=1.0,
        step=0.001,
        round=False,
        advanced=True,
    )
    learning_rate_steps: int = 100
    stop_below: float = setting(
        1e-5,
        "A step ends when its loss is below this plus 0.00002 for every step taken. High is fast; 0 takes nearly all "
        "iterations.",
        low=0.0,
        high=1.0,
        step=1e-6,
        round=False,
        advanced=True,
    )
    stop_growth: float = 2e-5
    keep_last_update: bool = True
    gradient_scale: float = 1.0

    @property
    def advance(self) -> float:
        """Guidance weight under which the latent advances."""
        return self.cfg if self.advance_cfg is None else self.advance_cfg

    def check(self, steps: int) -> None:
        """Whether the options fit a way back of that many steps.

        :raises ValueError: they do not.
        """
        if steps > self.learning_rate_steps:
            raise ValueError(
                f"The learning rate reaches 0 after {self.learning_rate_steps} steps, but the inversion has {steps}: "
                "invert with fewer steps, or let the rate fall over more."
            )

    def rate(self, step: int) -> float:
        """Adam's learning rate of a step."""
        return self.learning_rate * (1 - step / self.learning_rate_steps)

    def threshold(self, step: int) -> float:
        """The loss below which a step ends."""
        return self.stop_below + self.stop_growth * step


@dataclass(frozen=True)
class Pivots(Held):
    """The unconditional contexts of one picture, and the way back that they pin down.

    :param levels: (N+1,) descending sigmas of the way back.
    :param contexts: (N, tokens, width) float32, the unconditional context from ``levels[i]`` to ``levels[i + 1]``.
    :param trajectory: (N+1, 1, C, h, w), variance-exploding latents at ``levels``: what guided sampling with these
        contexts passes. The base stream of a fusion replays it instead of computing it anew.
    :param losses: what each iteration of each step had to improve, in variance-preserving scale.
    :param reconstruction_error: the picture that comes back, against the inverted one; see ``round_trip_error``.
    :param cfg: weight at which ``trajectory`` was walked; sampling with another one leaves it.
    :param model: fingerprint of the model that made it.
    """

    levels: tuple[float, ...]
    contexts: Tensor
    trajectory: Tensor
    losses: tuple[tuple[float, ...], ...]
    reconstruction_error: float
    cfg: float
    model: str

    def check(self, name: str) -> None:
        """Whether what travels as pivots is that: whole, and finite.

        :param name: what the user calls them; messages start with it.
        :raises ValueError: they are not.
        """
        steps = len(self.levels) - 1
        for what, tensor, axes, count in (
            ("contexts", self.contexts, 3, steps),
            ("way", self.trajectory, 5, steps + 1),
        ):
            said, expected = f"{name}: their {what}", f"{count} of them, in {axes} axes"
            check_tensor(tensor, said, expected)
            if tensor.ndim != axes or 0 in tensor.shape or len(tensor) != count or tensor.dtype not in FLOATS:
                raise ValueError(
                    f"{said}: found {tensor.dtype} of shape {tuple(tensor.shape)}, expected {expected}; find them "
                    "again with Pivot Inversion."
                )
            check_finite(tensor, said, expected)
        falling = all(low < high < inf for high, low in pairwise(self.levels)) and steps > 0 and self.levels[-1] >= 0
        if not falling or not isfinite(self.cfg) or self.cfg <= 0:
            raise ValueError(
                f"{name}: found levels that do not fall, or cfg {self.cfg}, expected those of Pivot "
                "Inversion; find them again."
            )

    @property
    def sigmas(self) -> tuple[float, ...]:
        """(N,) the sigma at which each context is used."""
        return self.levels[:-1]

    @property
    def n_inner(self) -> tuple[int, ...]:
        """Losses that were looked at in each step."""
        return tuple(len(step) for step in self.losses)

    @cached_property
    def _logs(self) -> Tensor:
        return torch.tensor([log(max(sigma, _LOWEST)) for sigma in self.sigmas], dtype=torch.float64)

    def step(self, sigma: float) -> int:
        """The step whose sigma is nearest on a logarithmic scale."""
        return int((self._logs - log(max(sigma, _LOWEST))).abs().argmin())

    def at(self, sigma: float) -> Tensor:
        """(tokens, width): the unconditional context for a sigma."""
        return self.contexts[self.step(sigma)]

    def latent_at(self, sigma: float) -> Tensor:
        """(1, C, h, w): where the way back stands at a sigma that begins a step."""
        return self.trajectory[self.step(sigma)]


@dataclass(frozen=True)
class PivotProgress:
    """Where a search is, after each iteration.

    :param step: of ``steps``, 0 is the most noisy.
    :param loss: of this iteration.
    :param last: the step is finished with this iteration.
    :param denoised: (1, C, h, w) clean estimate of the guided prediction.
    """

    step: int
    steps: int
    iteration: int
    loss: float
    last: bool
    denoised: Tensor


def way_back(inversion: Inversion) -> tuple[tuple[float, ...], Tensor]:
    """Descending levels (N+1,) and the latents (N+1, B, C, h, w) that the inversion passed there.

    :raises ValueError: an inversion that does not come back down the levels that it climbed.
    """
    plan = inversion.plan
    if tuple(reversed(plan.levels)) != plan.sigmas:
        raise ValueError(
            f"inversion: found one of the convention '{plan.convention}', which does not come back down the levels "
            "that it climbed, so there is nothing to steer toward; expected 'consistent' or 'diffusers': invert again "
            "with one of those."
        )
    return plan.sigmas, inversion.trajectory.flip(0)


def search_pivots(
    predict: Predict,
    inversion: Inversion,
    conditional: Tensor,
    start: Tensor | None = None,
    options: PivotOptions | None = None,
) -> Generator[PivotProgress, None, Pivots]:
    """Pivot turning inversion, one :class:`PivotProgress` an iteration; the generator's value is a :class:`Pivots`.

    A step costs one prediction under ``conditional``, which all its iterations share; a prediction and a backward pass
    an iteration; and one prediction to advance (none where the context did not move since the last one).

    Gradients must be allowed where the generator runs, and tensors must not come from inference mode.

    :param inversion: of one picture, on the device where ``predict`` wants its latents.
    :param conditional: (1, tokens, width). The released program takes the empty prompt.
    :param start: (1, tokens, width), the unconditional context of the first step; default: ``conditional``.
    :raises ValueError: several pictures, options out of range, or a loss that is not finite.
    """
    options = options or PivotOptions()
    levels, targets = way_back(inversion)
    steps = len(levels) - 1
    options.check(steps)
    if inversion.pictures != 1:
        raise ValueError(
            f"inversion: found one of {inversion.pictures} pictures, expected one picture at a time; invert them one "
            "by one."
        )
    context = (conditional if start is None else start).detach().float().clone()
    x = targets[0]
    contexts, losses, passed = [], [], [x]
    for i in range(steps):
        sigma, lower = levels[i], levels[i + 1]
        with torch.no_grad():
            steered = predict(x, sigma, conditional)
        context.requires_grad_(True)
        optimizer = torch.optim.Adam([context], lr=options.rate(i))
        step_losses: list[float] = []
        current: Tensor | None = None
        for j in range(options.iterations):
            plain = predict(x, sigma, context)
            denoised = guide(steered, plain, options.cfg)
            loss = _miss(_step(x, denoised, sigma, lower), targets[i + 1], lower)
            value = float(loss.detach())
            step_losses.append(value)
            if not isfinite(value):
                raise ValueError(
                    f"Pivot inversion diverged: the loss of step {i + 1}, iteration {j + 1} is {value}. Lower the "
                    "learning rate, or run the model in float32."
                )
            enough = value < options.threshold(i)
            if enough and not options.keep_last_update:
                current = plain.detach()
            else:
                (gradient,) = torch.autograd.grad(loss * options.gradient_scale, [context])
                context.grad = gradient / options.gradient_scale
                optimizer.step()
            last = enough or j == options.iterations - 1
            yield PivotProgress(i, steps, j, value, last, denoised.detach())
            if enough:
                break
        context = context.detach()
        with torch.no_grad():
            if current is None:
                current = predict(x, sigma, context)
            x = _step(x, guide(steered, current, options.advance), sigma, lower)
        contexts.append(context.clone())
        losses.append(tuple(step_losses))
        passed.append(x)
    error = round_trip_error(inversion.plan.to_clean(targets[-1]), inversion.plan.to_clean(x))
    return Pivots(
        levels,
        torch.cat(contexts).cpu(),
        torch.stack(passed).cpu(),
        tuple(losses),
        error,
        options.advance,
        inversion.model,
    )


def _step(x: Tensor, denoised: Tensor, sigma: float, lower: float) -> Tensor:
    """DDIM from one level to the next; latents (B, C, h, w)."""
    return x + to_eps(x, sigma, denoised) * (lower - sigma)


def _miss(x: Tensor, target: Tensor, sigma: float) -> Tensor:
    """Mean squared distance of two latents in the officials' variance-preserving scale, ()."""
    return rescale(x.float() - target.float(), sigma, 0.0).pow(2).mean()
