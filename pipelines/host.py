"""What a pipeline asks of a host. Hosts satisfy it by shape; none inherits from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..attention.call import Attend, Edit
from ..attention.capture import Capture
from ..attention.families import Family
from ..attention.layers import Layer, LayerInfo
from ..diffusion.schedule import InversionPlan


class Host(Protocol):
    """A loaded model with its autoencoder and one prompt.

    Latents are in the model's own scale (unit variance at sigma 0), noised ones as the model's family has them.
    """

    @property
    def family(self) -> Family:
        """Which the model is of."""
        ...

    @property
    def layers(self) -> tuple[LayerInfo, ...]:
        """Attention layers in network order."""
        ...

    @property
    def sigma_table(self) -> Tensor:
        """(train timesteps,) ascending training sigmas."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identifies the weights."""
        ...

    @property
    def device(self) -> torch.device:
        """Where sampling runs."""
        ...

    @property
    def factor(self) -> int:
        """Pixels a latent covers."""
        ...

    @property
    def size_multiple(self) -> int:
        """Sides in pixels are best multiples of this: then no level of the UNet has to round."""
        ...

    @property
    def attend(self) -> Attend:
        """Fused attention."""
        ...

    def encode(self, image: Tensor) -> Tensor:
        """(B, H, W, 3) in 0..1 -> (B, C, h, w)."""
        ...

    def decode(self, latent: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, H, W, 3) in 0..1."""
        ...

    def invert(self, latent: Tensor, plan: InversionPlan, capture: Capture | None, refinements: int) -> Tensor:
        """DDIM inversion -> trajectory (K+1, B, C, h, w)."""
        ...

    def read(self, latent: Tensor, sigma: float, capture: Capture) -> None:
        """One model call: what attention sees in clean latents, (B, C, h, w), at a noise level goes into the capture.

        The latents are put at that level without noise, as an inversion's first step does. The call may end with the
        last layer that is kept.
        """
        ...

    def sample(
        self, x: Tensor, plan: InversionPlan, edit: Edit | None, layers: Sequence[Layer], weight: float
    ) -> Tensor:
        """The way back of x, (B, C, h, w), under colorization guidance: ``plan.sigmas[0]`` to ``plan.sigmas[-1]``."""
        ...

    def out_of_memory(self, error: Exception) -> bool:
        """Whether an error says that memory ran out; if so, what can be freed is freed."""
        ...
