"""What looks at pictures on the command line: a diffusion model, or a vision encoder in its place."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import options as common

if TYPE_CHECKING:
    from ..memory.entries import ColorMemory, Made
    from ..memory.features import FeatureSource
    from ..pipelines.memory_settings import MemorySettings


@dataclass(frozen=True)
class Looking:
    """What looks at pictures.

    :param name: for messages.
    :param recommended: what it recommends for color memories.
    """

    network: FeatureSource
    name: str
    asking: MemorySettings
    recommended: Mapping[str, Any]
    out_of_memory: Callable[[Exception], bool]

    @property
    def made(self) -> Made:
        """What a memory must be made by that it is to ask."""
        from ..memory.entries import Made

        return Made(self.network.fingerprint, self.network.spaces, self.asking.features.context, self.name)


def add_looking(group: argparse._ArgumentGroup, memory: str) -> None:
    """Memories that are asked, and what looks at pictures in place of a diffusion model.

    :param memory: what ``--memory`` does for the command.
    """
    group.add_argument("--memory", action="append", type=common.path, metavar="FILE", default=[], help=memory)
    group.add_argument(
        "--encoder",
        type=common.path,
        metavar="PLACE",
        help="vision encoder (DINOv2, DINOv3, SigLIP, CLIP; a folder as transformers has it) that tells which places "
        "look alike, in place of the diffusion model (default: none)",
    )


def networks(options: argparse.Namespace) -> dict[str, Path]:
    """Its files or folders, by their options."""
    from ..demo import model_path

    if options.encoder:
        return {"--encoder": options.encoder}
    return {"--model": options.model or model_path(), **({"--vae": options.vae} if options.vae else {})}


def placement(options: argparse.Namespace, chosen: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Where and how the network runs.

    :param chosen: settings of color memories that the user named; ``prefix`` is what their options begin with.
    :raises ValueError: an option that an encoder has no use for, or a device that is not there.
    """
    if not options.encoder:
        return common.checkpoint(options)
    useless = {
        "--model": options.model,
        "--prediction": options.prediction != "auto",
        "--vae": options.vae,
        common.flag_of(prefix + "timestep"): "timestep" in chosen,
    }
    for option, there in useless.items():
        if there:
            raise ValueError(f"{option} is about a diffusion model, and --encoder stands in its place; leave one out.")
    return common.placement(options)


def look(
    options: argparse.Namespace, placed: Mapping[str, Any], chosen: Mapping[str, Any], known: Sequence[ColorMemory]
) -> Looking:
    """The network that is named, loaded.

    :param placed: from :func:`placement`.
    :param chosen: settings of color memories that the user named.
    :param known: memories that are to be asked: with what one of its own was written, a network is asked.
    """
    return (_encoder if options.encoder else _model)(options, placed, chosen, known)


def _model(
    options: argparse.Namespace, placed: Mapping[str, Any], chosen: Mapping[str, Any], known: Sequence[ColorMemory]
) -> Looking:
    """The diffusion model. A memory is asked with the layers, level and context that it was written with."""
    from ..hosts.diffusers.checkpoint import load_standalone
    from ..hosts.diffusers.host import DiffusersHost
    from ..pipelines.memory_features import ModelFeatures, as_written
    from ..pipelines.memory_settings import MemorySettings

    model = load_standalone(networks(options)["--model"], **placed)
    host, recommended = DiffusersHost(model), model.recommended.get("memory", {})
    asking = MemorySettings.resolve(recommended, **chosen)
    for memory in _own(known, host.fingerprint):
        asking = MemorySettings.resolve(recommended, features=as_written(asking.features, memory, host), **chosen)
    return Looking(ModelFeatures(host, asking.features), model.name, asking, recommended, host.out_of_memory)


def _encoder(
    options: argparse.Namespace, placed: Mapping[str, Any], chosen: Mapping[str, Any], known: Sequence[ColorMemory]
) -> Looking:
    """A vision encoder; as for the diffusion model."""
    from ..hosts.diffusers.encoder import load_encoder
    from ..pipelines.encoder_features import EncoderFeatures, as_written, recommended_for
    from ..pipelines.memory_settings import MemorySettings

    encoder = load_encoder(options.encoder, **placed)
    recommended = recommended_for(encoder)
    asking = MemorySettings.resolve(recommended, **chosen)
    for memory in _own(known, encoder.fingerprint):
        written = as_written(asking.features, memory, encoder.fingerprint)
        asking = MemorySettings.resolve(recommended, features=written, **chosen)
    network = EncoderFeatures(encoder, asking.features)
    return Looking(network, encoder.name, asking, recommended, encoder.out_of_memory)


def _own(known: Sequence[ColorMemory], fingerprint: str) -> list[ColorMemory]:
    """The first memory that a network wrote, if there is one: all others must be made alike."""
    return [memory for memory in known if memory.made is not None and memory.made.fingerprint == fingerprint][:1]
