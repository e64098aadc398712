"""What a pipeline asks of a host. Hosts satisfy it by shape; none inherits from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..attention.call import Attend, Edit
from ..attention.capture import Capture
from ..attention.layers import Layer, LayerInfo
from ..diffusion.schedule import InversionPlan


class Host(Protocol):
    """A loaded model with its autoencoder and one prompt.

    Latents are in the model's own scale (unit variance at sigma 0), noised ones variance-exploding.
    """

    #: Attention layers in network order.
    layers: tuple[LayerInfo, ...]
    #: (train timesteps,) ascending training sigmas.
    sigma_table: Tensor
    #: Identifies the weights.
    fingerprint: str
    #: Where sampling runs.
    device: torch.device
    #: Pixels a latent covers.
    factor: int
    #: Sides in pixels are best multiples of this: then no level of the UNet has to round.
    size_multiple: int
    #: Fused attention.
    attend: Attend

    def encode(self, image: Tensor) -> Tensor:
        """(B, H, W, 3) in 0..1 -> (B, C, h, w)."""

    def decode(self, latent: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, H, W, 3) in 0..1."""

    def invert(self, latent: Tensor, plan: InversionPlan, capture: Capture | None, refinements: int) -> Tensor:
        """DDIM inversion -> trajectory (K+1, B, C, h, w)."""

    def sample(
        self, x: Tensor, plan: InversionPlan, edit: Edit | None, layers: Sequence[Layer], weight: float
    ) -> Tensor:
        """The way back under colorization guidance, from ``plan.sigmas[0]`` to ``plan.sigmas[-1]``."""
