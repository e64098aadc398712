"""An embedded model from a file, before a host builds it: its parts, each compared with what the header says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...files.headers import read_config
from ...files.ldm import listed, part
from ...files.numbers import check_numbers
from ...files.tensors import read_tensors, reading
from .autoencoder import LinearAutoencoder
from .words import HashedWords

_PARTS = ("unet.", "vae.", "text.")


@dataclass(frozen=True, eq=False)
class EmbeddedFile:
    """What a file holds.

    :param config: its header, see ``files.headers.read_config``.
    :param unet: the UNet's tensors in diffusers' names.
    :param words: the text encoder.
    """

    config: Mapping[str, Any]
    unet: dict[str, Tensor]
    words: HashedWords
    autoencoder: LinearAutoencoder


def read_embedded(path: Path) -> EmbeddedFile:
    """Read the embedded model.

    :raises FileNotFoundError: there is no such file.
    :raises ValueError: it is another one, or its tensors do not fit its header; the file is named.
    """
    with reading(path, "reinstall the pack to restore it"):
        return take_apart(read_config(path), read_tensors(path))


def take_apart(config: Mapping[str, Any], tensors: Mapping[str, Tensor], others: tuple[str, ...] = ()) -> EmbeddedFile:
    """The parts that every embedded model has.

    :param others: prefixes of further parts.
    :raises ValueError: tensors that belong to none, that no network can use, or that do not fit the configuration.
    """
    unexpected = [name for name in tensors if not name.startswith((*_PARTS, *others))]
    if unexpected:
        raise ValueError(f"unexpected {listed(unexpected)}: reinstall the pack to restore the file.")
    check_numbers(tensors)
    autoencoder = LinearAutoencoder.from_state_dict(part(tensors, "vae."))
    words = HashedWords.from_state_dict(part(tensors, "text."), tokens=config["text"]["tokens"])
    channels, width = config["latent"]["channels"], config["unet"]["cross_attention_dim"]
    for what, found, said, expected in (
        ("channels of its autoencoder", autoencoder.channels, "latent: channels", channels),
        ("widths of its words", words.emb.embedding_dim, "unet: cross_attention_dim", width),
    ):
        if found != expected:
            raise ValueError(
                f"the {what} are {found}, but the header says {said} {expected}: reinstall the pack to restore the "
                "file."
            )
    return EmbeddedFile(config, part(tensors, "unet."), words, autoencoder)
