"""L-CAD from a file: read strictly, sizes from the shapes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...files import headers
from ...files.ldm import build, part
from ...files.tensors import read_tensors, reading
from ..embedded.parts import take_apart as take_embedded_apart
from .model import GrayEncoder, GuidedDecoder, LCADAutoencoder, LCADSizes
from .weights import LCADParts, check_channels, take_apart


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
    with reading(path, "give L-CAD's checkpoint, or reinstall the pack if it is its own"):
        if headers.is_embedded(path):
            return _read_embedded(path)
        parts = take_apart(read_tensors(path))
        return LCADFile(build_autoencoder(parts), parts.unet, parts.text)


def _read_embedded(path: Path) -> LCADFile:
    config = headers.read_config(path)
    described = config.get("lcad")
    if described is None:
        raise ValueError("this is the embedded model of another system; choose L-CAD's checkpoint.")
    tensors = read_tensors(path)
    read = take_embedded_apart(config, tensors, ("gray.", "decoder."))
    sizes = LCADSizes(described["widths"], described["blocks"], config["latent"]["channels"], 3, described["groups"])
    check_channels(config["unet"]["in_channels"], sizes)
    encoder = build(lambda: GrayEncoder(sizes), part(tensors, "gray."), "the embedded gray encoder")
    decoder = build(lambda: GuidedDecoder(sizes), part(tensors, "decoder."), "the embedded decoder")
    autoencoder = LCADAutoencoder(encoder, decoder, read.autoencoder).float()
    return LCADFile(autoencoder, read.unet, part(tensors, "text."), config)


def build_autoencoder(parts: LCADParts) -> LCADAutoencoder:
    """Gray encoder and decoder of a published checkpoint, float32.

    :raises ValueError: tensors that are missing, unexpected or of another shape, named.
    """
    encoder = build(lambda: GrayEncoder(parts.sizes), parts.gray, "L-CAD's gray encoder")
    decoder = build(lambda: GuidedDecoder(parts.sizes), parts.decoder, "L-CAD's decoder")
    return LCADAutoencoder(encoder, decoder).float()
