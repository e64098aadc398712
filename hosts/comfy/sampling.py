"""Sampling with a MODEL through ComfyUI's own machinery."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from torch import Tensor

from ...diffusion.sampling import limited_weight
from .runs import read_levels, stop_if_canceled


class StepLimitedGuider(comfy.samplers.CFGGuider):
    """Guidance whose weight is what each step can take (``limited_weight``).

    The levels of a run are read once, and kept until it ends.
    """

    _levels: tuple[Tensor, list[float]] | None = None

    def sample(self, *args: Any, **kw: Any) -> Tensor:
        try:
            return super().sample(*args, **kw)
        finally:
            self._levels = None

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options: dict | None = None, seed: int | None = None):
        """The guided clean estimate, (B, C, h, w)."""
        model_options = model_options or {}
        options = model_options.get("transformer_options", {})
        sigmas = self._of_run(options.get("sample_sigmas"))
        weight = limited_weight(self.cfg, max(read_levels(options, timestep)[0]), sigmas)
        return comfy.samplers.sampling_function(
            self.inner_model,
            x,
            timestep,
            self.conds.get("negative"),
            self.conds.get("positive"),
            weight,
            model_options=model_options,
            seed=seed,
        )

    def _of_run(self, levels: Tensor | None) -> list[float]:
        """The levels of a run as numbers; none where they are not known."""
        if levels is None:
            return []
        if self._levels is None or self._levels[0] is not levels:
            self._levels = (levels, levels.cpu().tolist())
        return self._levels[1]


def color_guider(model: Any, conditioning: list, weight: float, step_limit: bool = False) -> Any:
    """Colorization guidance as a CFG guider, the stock one but for ``step_limit``.

    The same prompt stands on both sides, the edit acts on the positive one only.
    """
    guider = (StepLimitedGuider if step_limit else comfy.samplers.CFGGuider)(model)
    guider.set_conds(conditioning, conditioning)
    guider.set_cfg(weight)
    return guider


def run_sampler(
    guider: Any,
    latent: Tensor,
    function: Callable[..., Tensor],
    sigmas: Tensor,
    on_step: Callable[[Tensor], None] | None,
) -> Tensor:
    """Run a k-diffusion style sampler function through ComfyUI's own sampling.

    :param latent: (B, C, h, w) start, in the model's latent scale.
    :param on_step: called with the clean estimate after each step.
    :returns: (B, C, h, w) in the model's latent scale, on the CPU or wherever ComfyUI keeps intermediates.
    """
    base = guider.model_patcher.model

    def callback(_step: int, denoised: Tensor, _x: Tensor, _total: int) -> None:
        stop_if_canceled()
        if on_step is not None:
            on_step(denoised)

    start = base.process_latent_out(latent.to(comfy.model_management.intermediate_device()))
    samples = guider.sample(
        torch.zeros_like(start),
        start,
        comfy.samplers.KSAMPLER(function),
        sigmas,
        callback=callback,
        disable_pbar=True,
        seed=0,
    )
    return base.process_latent_in(samples.to(comfy.model_management.intermediate_device()))
