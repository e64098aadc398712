"""A loaded diffusers UNet as a function to learn through."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...attention.backward import kept_bytes
from ...color.devices import free_memory
from ...diffusion.learning import SPARED
from .denoiser import UNetDenoiser, clean_estimate, nearest_timesteps

if TYPE_CHECKING:
    from .checkpoint import StandaloneModel

log = logging.getLogger(__name__)


class DifferentiableUNet:
    """``predict(x, sigma, context, pooled=None) -> clean estimate``, differentiable in context and pooled.

    x (B, C, h, w) variance-exploding, sigma a number or (B,), context (1 or B, tokens, width); pooled (1 or B, P) is
    SDXL's, the model's own (of the empty prompt) where it is not given.

    :param checkpointing: keep fewer activations for the backward pass and compute them again: less memory, about a
        third more time. Without it that happens where memory is short. Stays switched on in the UNet.
    :param shape: (B, C, h, w) of the latents in a call; what they need is compared with what is free, on devices that
        tell.
    """

    def __init__(self, model: StandaloneModel, checkpointing: bool = False, shape: Sequence[int] | None = None) -> None:
        self.model = model
        self._denoiser = UNetDenoiser(model)
        self._unet = model.unet.requires_grad_(False)
        if checkpointing:
            self._unet.enable_gradient_checkpointing()
        elif shape is not None and not self.checkpointing:
            weight = self._unet.conv_in.weight
            free = free_memory(weight.device)
            least = kept_bytes(self._denoiser.layers, weight.shape[0], (1, *shape[1:]), weight.element_size())
            if free is not None and least > free:
                self.spare()

    @property
    def checkpointing(self) -> bool:
        """Whether activations are computed again."""
        return self._unet.is_gradient_checkpointing

    def spare(self) -> bool:
        """Need less memory from now on, and say so; False where that is so already."""
        if self.checkpointing:
            return False
        self._unet.enable_gradient_checkpointing()
        log.warning("%s", SPARED)
        return True

    def __call__(self, x: Tensor, sigma: float | Tensor, context: Tensor, pooled: Tensor | None = None) -> Tensor:
        model, device = self.model, self._unet.conv_in.weight.device
        levels = torch.as_tensor(sigma, dtype=torch.float32).reshape(-1).expand(len(x))
        timesteps = nearest_timesteps(self._denoiser.sigma_table, levels).to(device)
        levels = levels.to(x).view(-1, 1, 1, 1)
        added = model.added_conditions(len(x), x.shape[-2:])
        if added is not None and pooled is not None:
            added = {**added, "text_embeds": pooled.to(self._unet.conv_in.weight.dtype).expand(len(x), -1)}
        predicted = self._denoiser.predict(x, levels, timesteps, context.expand(len(x), -1, -1), added)
        return clean_estimate(model.prediction, x, levels, predicted)
