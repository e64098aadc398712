"""Instance-aware sampling under diffusers: a guided denoiser whose conditional prediction draws phrases into masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ...attention.call import CONDITIONAL, CROSS, SELF
from ...attention.constants import Constants
from ...attention.instances import Instance, InstanceEdit
from ...attention.logits import KeepLogits, LogitCache, ReuseLogits, StaleLogits
from ...diffusion.sampling import guide
from .denoiser import UNetDenoiser


def guided_instances(
    denoiser: UNetDenoiser, weight: float, instances: Sequence[Instance], factor: int = 8
) -> Callable[[Tensor, Tensor], Tensor]:
    """``denoiser(x, sigma) -> x0`` under classifier-free guidance between branches 0 (drawn into the masks) and 1.

    Two rows a picture in one call; the ``official`` schedule takes a second call of one row.

    :param factor: pixels a latent covers.
    """
    layers, sent = [info.layer for info in denoiser.layers], Constants()

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        level = float(sigma.reshape(-1)[0])
        sigma = torch.tensor([level])  # on the CPU: the denoiser asks for it again, and a device would be waited for
        acting = [instance for instance in instances if instance.settings.acts(level)]
        edit = InstanceEdit(acting, tuple(side * factor for side in x.shape[-2:]), sent)
        twice = any(instance.settings.schedule == "official" for instance in acting)
        cache = LogitCache()
        first = KeepLogits(cache) if twice else edit
        kinds = (SELF, CROSS) if twice else (CROSS,)
        with denoiser.edited(first if acting else None, layers, kinds):
            conditional, plain = denoiser.pair(x, sigma)
        if twice:
            with denoiser.edited(ReuseLogits(cache, edit), layers, kinds):
                conditional = denoiser(x, sigma, (CONDITIONAL,))
        return guide(conditional, plain, weight)

    return denoise


@contextmanager
def stale_logits(denoiser: UNetDenoiser) -> Iterator[UNetDenoiser]:
    """Within this context, one run, every second call uses the attention logits of the one before, as published."""
    with denoiser.edited(StaleLogits(LogitCache()), [info.layer for info in denoiser.layers], (SELF, CROSS)):
        yield denoiser
