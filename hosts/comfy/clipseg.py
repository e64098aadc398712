"""CLIPSeg under ComfyUI's model manager."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import comfy.model_management
from torch import Tensor, nn

from ...networks.clipseg.load import load_referring
from ...networks.clipseg.model import LoadedReferring, working_bytes
from ...pipelines.clipseg import LoadSettings
from .folders import CLIPSEG
from .managed import ManagedNetwork


class ComfyReferring(ManagedNetwork):
    """A network that ComfyUI loads, offloads and counts. This is the type REFERRING."""

    def __init__(self, loaded: LoadedReferring) -> None:
        mm = comfy.model_management
        super().__init__(_Shell(loaded.network), mm.text_encoder_device(), mm.text_encoder_offload_device())
        self.loaded, self.name = loaded, loaded.name

    def __call__(self, images: Tensor, phrases: Sequence[str]) -> Tensor:
        """(B, H, W, 3) in 0..1 -> logits (B, P, side, side), float32 on the CPU."""
        self.load(working_bytes(self.loaded.network, self.loaded.side, len(phrases)))
        return self.loaded.scores(images.to(self.device), phrases).cpu()


class _Shell(nn.Module):
    """A network as ComfyUI keeps it: it writes down the device, which transformers' own class doesn't let it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


def load(name: str, settings: LoadSettings) -> ComfyReferring:
    """A folder by its name, or the published one from the hub, kept in ``models/clipseg`` from then on.

    :raises FileNotFoundError: no such folder, or a download that was not allowed.
    :raises ValueError: a folder that isn't CLIPSeg.
    """
    if name == CLIPSEG.from_hub:
        name = CLIPSEG.published
        if settings.allow_download and name not in CLIPSEG.models():
            _download(CLIPSEG.roots()[0] / name)
    return ComfyReferring(load_referring(CLIPSEG.path(name)))


def _download(folder: Path) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download(CLIPSEG.hub, local_dir=folder, allow_patterns=list(CLIPSEG.files))
