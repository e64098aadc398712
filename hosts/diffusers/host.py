"""diffusers as a pipeline's host."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...attention.call import Edit
from ...attention.capture import SHARE, Capture
from ...attention.ending import Enough, ReadUpTo
from ...attention.families import UNET, Family
from ...attention.fused import sdpa
from ...attention.layers import Layer, LayerInfo
from ...color.batches import freed
from ...color.devices import free_memory
from ...diffusion.sampling import guide, invert_ddim, sample_ddim
from ...diffusion.schedule import InversionPlan, rescale
from .denoiser import UNetDenoiser

if TYPE_CHECKING:
    from ...pipelines.host import Host
    from .checkpoint import StandaloneModel

#: Called after every model call of a long job, with the clean estimate so far.
StepCallback = Callable[[Tensor], None]


@dataclass
class DiffusersHost:
    """What a pipeline asks of a host, on a model that diffusers holds (see ``pipelines.host.Host``)."""

    model: StandaloneModel
    on_step: StepCallback | None = None
    denoiser: UNetDenoiser = field(init=False)

    def __post_init__(self) -> None:
        self.denoiser = UNetDenoiser(self.model)

    @property
    def family(self) -> Family:
        return UNET

    @property
    def layers(self) -> tuple[LayerInfo, ...]:
        return self.denoiser.layers

    @property
    def sigma_table(self) -> Tensor:
        return self.denoiser.sigma_table

    @property
    def fingerprint(self) -> str:
        return self.model.fingerprint

    @property
    def device(self) -> torch.device:
        return self.model.unet.device

    @property
    def size_multiple(self) -> int:
        """Pixels that a picture's sides should be multiples of, so that no level of the UNet has to round."""
        return self.factor * 2 ** (len(self.model.unet.down_blocks) - 1)

    @property
    def factor(self) -> int:
        """Pixels a latent covers."""
        return self.model.vae.factor

    attend = staticmethod(sdpa)

    def encode(self, image: Tensor) -> Tensor:
        """(B, H, W, 3) in 0..1 -> (B, C, h, w) in the model's latent scale."""
        return self.model.vae.encode(image.to(self.device)).float()

    def decode(self, latent: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, H, W, 3) in 0..1."""
        return self.model.vae.decode(latent).float().cpu()

    def invert(
        self, latent: Tensor, plan: InversionPlan, capture: Capture | None = None, refinements: int = 0
    ) -> Tensor:
        """Climb; returns the trajectory, (K+1, B, C, h, w), on the CPU.

        Features stay on the device if there is room for all of them, or nobody knows, else they go to main memory a
        level at a time.
        """
        trajectory: list[Tensor] = []
        if capture is not None:
            free, dtype = free_memory(self.device), self.model.unet.dtype
            room = sys.maxsize if free is None else int(free * SHARE)
            capture.fit(self.layers, latent.shape, dtype, len(plan.kept_sigmas), room, torch.device("cpu"))
        with self.denoiser.edited(capture, capture.layers if capture else ()) as denoiser:
            invert_ddim(
                denoiser,
                plan.from_clean(latent.to(self.device)),
                torch.tensor(plan.levels),
                callback=self._callback,
                disable=True,
                reads=plan.reads,
                refinements=refinements,
                visit=trajectory.append,
            )
        if capture is not None:
            capture.finish()
        return torch.stack(trajectory).cpu()  # at the end: the device is not waited for on the way

    def read(self, latent: Tensor, sigma: float, capture: Capture) -> None:
        """One model call on clean latents at a noise level, for what the capture keeps. It ends there."""
        clean = latent.to(self.device)
        with self.denoiser.edited(ReadUpTo(capture), capture.layers) as denoiser, suppress(Enough):
            denoiser(rescale(clean, 0.0, sigma), torch.tensor([sigma]))
        capture.finish()
        if self.on_step is not None:
            self.on_step(clean)

    def sample(
        self, x: Tensor, plan: InversionPlan, edit: Edit | None, layers: Sequence[Layer], weight: float
    ) -> Tensor:
        """Come back with guidance between the edited and the plain prediction; returns the latent at the last level."""
        split_at = self._split_block(layers)

        def guided(x: Tensor, sigma: Tensor) -> Tensor:
            if weight == 1:
                return self.denoiser(x, sigma)
            color, plain = self.denoiser.pair(x, sigma, split_at)
            return guide(color, plain, weight)

        with self.denoiser.edited(edit, layers):
            return sample_ddim(
                guided, x.to(self.device), torch.tensor(plan.sigmas), callback=self._callback, disable=True
            )

    def out_of_memory(self, error: Exception) -> bool:
        """Whether an error says that memory ran out; if so, what can be freed is freed."""
        return freed(error, self.device)

    def _split_block(self, layers: Sequence[Layer]) -> int | None:
        """The up block of the first edited layer: before it both branches of guidance compute the same thing."""
        if not layers or any(layer.block != "output" for layer in layers):
            return None
        return min(layer.index for layer in layers) // (self.model.unet.config.layers_per_block + 1)

    def _callback(self, step: dict[str, Any]) -> None:
        if self.on_step is not None:
            self.on_step(step["denoised"])


if TYPE_CHECKING:  # the contract, checked
    _: type[Host] = DiffusersHost
