"""CLIPSeg under ComfyUI's model manager, and where its folders are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import comfy.model_management
import folder_paths
from torch import Tensor, nn

from ...networks.clipseg.load import HUB_FILES, HUB_NAME, load_referring
from ...networks.clipseg.model import LoadedReferring, working_bytes
from .managed import ManagedNetwork

#: Folder of ``models`` that is looked into.
FOLDER = "clipseg"

#: What the choice of a download is called; the folder that it makes is chosen by its own name afterwards.
FROM_HUB = f"from the hub: {HUB_NAME}"


class ComfyReferring(ManagedNetwork):
    """A network that ComfyUI loads, offloads and counts. This is the type REFERRING."""

    def __init__(self, loaded: LoadedReferring) -> None:
        mm = comfy.model_management
        super().__init__(_Held(loaded.network), mm.text_encoder_device(), mm.text_encoder_offload_device())
        self.loaded, self.name = loaded, loaded.name

    def __call__(self, images: Tensor, phrases: Sequence[str]) -> Tensor:
        """(B, H, W, 3) in 0..1 -> logits (B, P, side, side), float32 on the CPU."""
        self.load(working_bytes(self.loaded.network, self.loaded.side, len(phrases)))
        return self.loaded.scores(images.to(self.device), phrases).cpu()


class _Held(nn.Module):
    """A network as ComfyUI holds it: it writes down the device, which transformers' own class doesn't let it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


def register_folder() -> None:
    """Make ``models/clipseg`` known to ComfyUI, beside the folders that its user may have added under that name."""
    folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))


def list_folders() -> list[str]:
    """Names of the folders in ``models/clipseg`` that hold a model."""
    roots = [Path(path) for path in folder_paths.get_folder_paths(FOLDER)]
    found = {path.parent.name for root in roots if root.is_dir() for path in root.glob("*/config.json")}
    return sorted(found)


def load(name: str, allow_download: bool) -> ComfyReferring:
    """A folder by its name, or the published one from the hub, kept in ``models/clipseg`` from then on.

    :raises FileNotFoundError: no such folder, or a download that was not allowed.
    :raises ValueError: a folder that isn't CLIPSeg.
    """
    if name == FROM_HUB:
        name = HUB_NAME.rpartition("/")[2]
        if name not in list_folders():
            if not allow_download:
                raise FileNotFoundError(missing(name))
            _download(Path(folder_paths.get_folder_paths(FOLDER)[0]) / name)
    roots = [Path(path) for path in folder_paths.get_folder_paths(FOLDER)]
    folder = next((root / name for root in roots if (root / name / "config.json").is_file()), None)
    if folder is None:
        raise FileNotFoundError(missing(name))
    return ComfyReferring(load_referring(folder))


def missing(name: str) -> str:
    """What to say about a folder that isn't there."""
    found = list_folders()
    return (
        f"There is no '{name}' in models/{FOLDER} ({', '.join(found) or 'it is empty'}). Put the files of {HUB_NAME} "
        f"({', '.join(HUB_FILES)}) into models/{FOLDER}/{HUB_NAME.rpartition('/')[2]} and reload the page, or choose "
        f"'{FROM_HUB}' and switch allow_download on."
    )


def _download(folder: Path) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download(HUB_NAME, local_dir=folder, allow_patterns=list(HUB_FILES))
