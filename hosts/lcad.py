"""L-CAD from a file, and its UNet as a denoiser under diffusers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..attention.call import CONDITIONAL, batch_layout
from ..diffusion.sampling import guide
from ..networks.lcad import GrayEncoder, GuidedDecoder, LCADAutoencoder
from ..networks.lcad_weights import LCADParts
from .diffusers import UNetDenoiser
from .ldm_config import load_strictly

if TYPE_CHECKING:
    from .checkpoint import StandaloneModel


def build_autoencoder(parts: LCADParts) -> LCADAutoencoder:
    """Gray encoder and decoder of a published checkpoint, float32.

    :raises ValueError: tensors that are missing, unexpected or of another shape, named.
    """
    with torch.device("meta"):
        encoder, decoder = GrayEncoder(parts.sizes), GuidedDecoder(parts.sizes)
    load_strictly(encoder, parts.gray, "L-CAD's gray encoder")
    load_strictly(decoder, parts.decoder, "L-CAD's decoder")
    return LCADAutoencoder(encoder, decoder).float()


class LCADDenoiser(UNetDenoiser):
    """A diffusers UNet that reads gray features beside the latent, as ``denoiser(x, sigma, branches) -> x0``.

    :param gray: (B or 1, G, h, w), the gray encoder's last map, the same for all branches.
    :param contexts: the text of each branch, (B or 1, tokens, width); all with the same number of tokens.
    """

    def __init__(self, model: StandaloneModel, gray: Tensor, contexts: Mapping[int, Tensor]) -> None:
        super().__init__(model)
        self.gray, self.contexts = gray, dict(contexts)

    def guided(self, weight: float) -> Callable[[Tensor, Tensor], Tensor]:
        """``denoiser(x, sigma)`` under classifier-free guidance between branches 0 and 1; weight 1 runs branch 0 only."""

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            if weight == 1:
                return self(x, sigma)
            plain, told = self(torch.cat([x, x]), sigma.repeat(2), (1, CONDITIONAL)).chunk(2)
            return guide(told, plain, weight)

        return denoise

    def context(self, branches: Sequence[int], rows: int) -> Tensor:
        of_row, pictures = batch_layout(branches, rows)
        chosen = [self.contexts[branch] for branch in of_row]
        return torch.stack([text[picture % len(text)] for text, picture in zip(chosen, pictures, strict=True)])

    def unet_input(self, scaled: Tensor) -> Tensor:
        if scaled.shape[-2:] != self.gray.shape[-2:] or len(scaled) % len(self.gray):
            raise ValueError(
                f"The latent is {tuple(scaled.shape)}, the gray features {tuple(self.gray.shape)}: encode the gray picture "
                "at the latent's size, one picture or one for each row."
            )
        gray = self.gray.to(scaled).repeat(len(scaled) // len(self.gray), 1, 1, 1)
        return torch.cat([scaled, gray], 1)
