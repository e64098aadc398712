"""DDColor from a file: read strictly, sizes from the shapes, on transformers' ConvNeXt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...color.batches import freed
from ...color.devices import free_memory
from ...files.headers import Systems, read_recommended
from ...files.ldm import build as build_strictly
from ...files.numbers import check_numbers
from ...files.tensors import read_tensors, reading
from .model import ConvNeXtMaps, DDColor, DDColorSizes, working_bytes
from .weights import NAMES, check_weights, fold, read_sizes

#: The published names of the encoder's parts, and transformers'.
_RENAMED = (
    (r"^downsample_layers\.0\.0\.", "embeddings.patch_embeddings."),
    (r"^downsample_layers\.0\.1\.", "embeddings.layernorm."),
    (r"^downsample_layers\.(\d)\.(\d)\.", r"stages.\1.downsampling_layer.\2."),
    (r"^stages\.(\d+)\.(\d+)\.norm\.", r"stages.\1.layers.\2.layernorm."),
    (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.layers.\2."),
    (r"^norm(\d)\.", r"norms.\1."),
)


@dataclass(frozen=True)
class LoadedDDColor:
    """A network on one device, as the pipeline asks for it (``pipelines.ddcolor.ColorNetwork``).

    :param network: ready to run.
    :param variant: what its architecture is called, such as ``ConvNeXt-L``.
    :param name: the file's name.
    :param recommended: settings that the file recommends for DDColor.
    """

    network: DDColor
    variant: str
    name: str
    recommended: Mapping[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.network.refine.weight.device

    @torch.no_grad()
    def __call__(self, gray: Tensor) -> Tensor:
        """(n, 3, h, w) in 0..1 -> a and b, (n, 2, h, w), float32 on the CPU."""
        return self.network(gray.to(self.device)).cpu()

    def frames_at_once(self, frames: int, height: int, width: int) -> int:
        """How many of some frames to hand over at once: what fits the memory that is free."""
        free = free_memory(self.device)
        if free is None:  # a CPU, where single frames are faster, as more of their numbers stay in its caches
            return 1
        return fitting(free, self.network, frames, height, width)

    def out_of_memory(self, error: Exception) -> bool:
        """Whether an error says that memory ran out; if so, what can be freed is freed."""
        return freed(error, self.device)


def fitting(free: float, network: DDColor, frames: int, height: int, width: int) -> int:
    """How many frames fit some bytes of free memory, with a tenth to spare; at least 1."""
    always, one = (memory_of(network, count, height, width) for count in (0, 1))
    return max(1, min(frames, int((0.9 * free - always) / (one - always))))


def memory_of(network: DDColor, frames: int, height: int, width: int) -> int:
    """Bytes that some frames need on their way through a network."""
    return working_bytes(network.sizes, frames, height, width, network.refine.weight.element_size())


def load_ddcolor(
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    systems: Systems | None = None,
) -> LoadedDDColor:
    """Read a published DDColor file: .pth, .pt, .bin or .safetensors, the weights bare or nested.

    :param systems: by which settings the file's recommendation is judged, see ``files.headers.read_recommended``.
        Hosts and commands give ``pipelines.recommended.SYSTEMS``; without, it is only seen to that numbers are some.
    :raises FileNotFoundError: there is no such file.
    :raises ValueError: it cannot be read as plain weights, or they are not DDColor's; the file is named.
    """
    path = Path(path)
    with reading(path, "give one of DDColor's files, such as ddcolor_modelscope.pth"):
        recommended = read_recommended(path, systems).get("ddcolor", {})
        network, variant = build(read_tensors(path))
    network = network.to(device=device, dtype=dtype, memory_format=torch.channels_last)
    return LoadedDDColor(network, variant, path.name, recommended)


def build(weights: Mapping[str, Tensor]) -> tuple[DDColor, str]:
    """A network from published weights, in float32, and what it is called.

    :raises ValueError: weights that are not DDColor's, incomplete, or with anything else among them.
    """
    sizes = read_sizes(weights)
    check_weights(weights, sizes)
    encoder, rest = fold(weights, sizes)
    renamed = {f"encoder.{encoder_name(name)}": tensor for name, tensor in encoder.items()}
    check_numbers(renamed | rest)  # what was folded may have become too large
    network = build_strictly(lambda: DDColor(ConvNeXtMaps(sizes), sizes), renamed | rest, "DDColor")
    return network, variant_name(sizes)


def variant_name(sizes: DDColorSizes) -> str:
    """``ConvNeXt-L``, ``ConvNeXt-T``, or the sizes of any other encoder."""
    known = NAMES.get((sizes.depths, sizes.widths))
    return known or f"ConvNeXt with depths {sizes.depths} and widths {sizes.widths}"


def encoder_name(name: str) -> str:
    """Transformers' name of a tensor of the encoder; ``name`` is the published one without ``encoder.arch.``."""
    for pattern, replacement in _RENAMED:
        name, replaced = re.subn(pattern, replacement, name)
        if replaced:
            return name
    return name
