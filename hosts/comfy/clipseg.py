"""CLIPSeg under ComfyUI's model manager."""

from __future__ import annotations

from collections.abc import Sequence

import comfy.model_management
from torch import Tensor, nn

from ...networks.clipseg.load import load_referring
from ...networks.clipseg.model import LoadedReferring, working_bytes
from ...pipelines.clipseg import LoadSettings
from . import downloads
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
    :raises OSError: a download that failed.
    """
    if name == CLIPSEG.from_hub:
        name = CLIPSEG.published
        if not CLIPSEG.is_there() and _may_fetch(settings):
            downloads.fetch(CLIPSEG)
    return ComfyReferring(load_referring(CLIPSEG.path(name)))


def _may_fetch(settings: LoadSettings) -> bool:
    """Whether both the workflow and the server's owner say yes.

    :raises FileNotFoundError: one does not, and there is nothing to load instead; the message says which.
    """
    if settings.allow_download and downloads.allowed():
        return True
    if CLIPSEG.published in CLIPSEG.models():  # incomplete; reading it says what it lacks
        return False
    if not settings.allow_download:
        who = "It is not fetched: allow_download is off."
    else:
        who = (
            "It is not fetched: allow_download is on, but the owner of this server does not allow downloads. The owner "
            f"can: with {downloads.VARIABLE}=1 in the environment of ComfyUI, or with the lines [{downloads.SECTION}] "
            f"and {downloads.OPTION} = yes in the file __{downloads.OWNER}/{downloads.FILE} in its user folder."
        )
    raise FileNotFoundError(f"{CLIPSEG.missing(CLIPSEG.published)} {who}")
