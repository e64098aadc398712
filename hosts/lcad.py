"""L-CAD from a file, and its UNet as a denoiser under diffusers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import demo
from ..attention.call import CONDITIONAL, batch_layout
from ..diffusion.sampling import guide
from ..networks.lcad import GrayEncoder, GuidedDecoder, LCADAutoencoder, LCADSizes
from ..networks.lcad_weights import LCADParts, take_apart
from ..networks.linear_autoencoder import LinearAutoencoder
from .diffusers import UNetDenoiser
from .ldm_config import load_strictly, part
from .weight_files import read_tensors

if TYPE_CHECKING:
    from .checkpoint import StandaloneModel


@dataclass(frozen=True, eq=False)
class LCADFile:
    """What a file holds, before a host builds its models.

    :param config: the header of an embedded file; None for a published one, whose names tell everything.
    :param unet: diffusers' names in an embedded file, LDM names in a published one.
    :param text: the table of words, or CLIP in transformers' names; empty where a published file has none.
    """

    autoencoder: LCADAutoencoder
    unet: dict[str, Tensor]
    text: dict[str, Tensor]
    config: dict[str, Any] | None = None


def read_lcad(path: Path) -> LCADFile:
    """Read the embedded L-CAD or a published checkpoint.

    :raises FileNotFoundError: there is no such file.
    :raises ValueError: it cannot be read as plain weights, or they are not L-CAD's; the file is named.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: give L-CAD's checkpoint, or reinstall the pack if it is its own.")
    try:
        if path.suffix == ".safetensors" and demo.is_embedded(path):
            return _read_embedded(path)
        parts = take_apart(read_tensors(path))
        return LCADFile(build_autoencoder(parts), parts.unet, parts.text)
    except ValueError as error:
        said = str(error)
        raise ValueError(said if str(path) in said else f"{path}: {said}") from error


def _read_embedded(path: Path) -> LCADFile:
    config, tensors = demo.read_config(path), demo.load_state_dict(path)
    described = config.get("lcad")
    if described is None:
        raise ValueError("this is the embedded model of another system; choose L-CAD's checkpoint.")
    sizes = LCADSizes(tuple(described["widths"]), described["blocks"], config["latent"]["channels"], 3, described["groups"])
    with torch.device("meta"):
        encoder, decoder = GrayEncoder(sizes), GuidedDecoder(sizes)
    load_strictly(encoder, part(tensors, "gray."), "the embedded gray encoder")
    load_strictly(decoder, part(tensors, "decoder."), "the embedded decoder")
    base = LinearAutoencoder.from_state_dict(part(tensors, "vae."))
    autoencoder = LCADAutoencoder(encoder, decoder, base).float()
    return LCADFile(autoencoder, part(tensors, "unet."), part(tensors, "text."), config)


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
