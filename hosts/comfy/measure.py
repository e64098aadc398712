"""The networks of measures under ComfyUI's model manager, from well-known files in ``models/measure``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
from torch import Tensor, nn

from ...networks.measure import inception, perceptual
from ...networks.measure.files import MeasureNetworks, load_networks
from .folders import register
from .managed import ManagedNetwork

#: The folder of ``models`` that files are looked for in.
FOLDER = "measure"


class _Managed(ManagedNetwork):
    def __init__(self, network: nn.Module) -> None:
        mm = comfy.model_management
        super().__init__(network, mm.get_torch_device(), mm.unet_offload_device())


class ComfyInception(_Managed):
    """Inception as the pipeline asks for it (``pipelines.measure.Looks``)."""

    def look(self, pictures: Tensor, *, resize: bool = True, whole: bool = True) -> inception.Seen:
        self.load(inception.working_bytes(*pictures.shape[1:3], resize=resize))
        return self.network.look(pictures, resize=resize, whole=whole)


class ComfyPerceptual(_Managed):
    """LPIPS as the pipeline asks for it (``pipelines.measure.Compares``)."""

    def __call__(self, one: Tensor, other: Tensor) -> Tensor:
        self.load(perceptual.working_bytes(*one.shape[-2:]))
        return self.network(one.to(self.device), other.to(self.device))


def load() -> MeasureNetworks:
    """All networks whose files the folder has, the first of that name that has any.

    :raises ValueError: a file that is damaged or another one.
    """
    register(FOLDER)
    roots = [Path(path) for path in folder_paths.folder_names_and_paths[FOLDER][0]]
    folder = next((root for root in roots if root.is_dir() and any(root.iterdir())), None)
    found = load_networks(folder, called=f"models/{FOLDER}")
    managed: dict[str, Any] = {
        "inception": found.inception and ComfyInception(found.inception),
        "torchvision": found.torchvision and ComfyInception(found.torchvision),
        "perceptual": found.perceptual and ComfyPerceptual(found.perceptual),
    }
    return replace(found, **managed)
