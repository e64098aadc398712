"""DDColor under ComfyUI's model manager, and where its files are."""

from __future__ import annotations

import comfy.model_management
import comfy.model_patcher
import torch
from torch import Tensor

from ... import demo
from ...networks.ddcolor.load import LoadedDDColor, fitting, load_ddcolor, memory_of, ran_out
from . import folders as comfy_folders

#: What the small network is called that comes with the pack.
EMBEDDED = "embedded"

#: Folders of ``models`` that are looked into, the first one first.
FOLDERS = ("ddcolor", "upscale_models")

#: For how many frames ComfyUI is asked to make room, at the cost of other models. More run together if they fit anyway.
MAKE_ROOM_FOR = 16


class ComfyDDColor:
    """A network that ComfyUI loads, offloads and counts, as the pipeline asks for it. This is the type DDCOLOR.

    :param loaded: a network on the CPU.
    """

    def __init__(self, loaded: LoadedDDColor) -> None:
        mm = comfy.model_management
        patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
        self.name, self.variant = loaded.name, loaded.variant
        self.patcher = patcher(
            loaded.network, load_device=mm.get_torch_device(), offload_device=mm.unet_offload_device()
        )

    def __call__(self, gray: Tensor) -> Tensor:
        """(n, 3, h, w) in 0..1 -> a and b, (n, 2, h, w), float32 on the CPU."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._load(len(gray), *gray.shape[-2:])
        return self.patcher.model(gray.to(self.patcher.load_device)).cpu()

    def frames_at_once(self, frames: int, height: int, width: int) -> int:
        """How many of some frames to hand over at once: what fits the memory that is free once the network is
        loaded."""
        device = self.patcher.load_device
        if device.type == "cpu":
            return 1  # single frames are faster there, as more of their numbers stay in its caches
        self._load(min(frames, MAKE_ROOM_FOR), height, width)
        free = comfy.model_management.get_free_memory(device)
        return fitting(free, self.patcher.model, frames, height, width)

    def out_of_memory(self, error: Exception) -> bool:
        """Whether an error says that memory ran out; if so, what can be freed is freed."""
        if not comfy.model_management.is_oom(error) and not ran_out(error):
            return False
        comfy.model_management.soft_empty_cache()
        return True

    def _load(self, frames: int, height: int, width: int) -> None:
        needed = memory_of(self.patcher.model, frames, height, width)
        # all of it: its layers are plain ones, which ComfyUI can't fetch one by one
        comfy.model_management.load_models_gpu([self.patcher], memory_required=needed, force_full_load=True)


def register_folder() -> None:
    """Make ``models/ddcolor`` known to ComfyUI, beside the folders that its user may have added under that name."""
    comfy_folders.register(FOLDERS[0])


def list_files() -> list[str]:
    """Names of files that may be DDColor's: all of the first folder, then what only the second has."""
    return comfy_folders.list_files(FOLDERS)


def load(name: str, dtype: torch.dtype) -> ComfyDDColor:
    """A file of the folders, by its name, or the embedded one.

    :raises FileNotFoundError: no folder has it.
    :raises ValueError: it cannot be read as plain weights, or they are not DDColor's.
    """
    if name == EMBEDDED:
        return ComfyDDColor(load_ddcolor(demo.ddcolor_path(), dtype=dtype))
    path = comfy_folders.find(name, FOLDERS)
    if path is None:
        raise FileNotFoundError(missing(name))
    return ComfyDDColor(load_ddcolor(path, dtype=dtype))


def missing(name: str) -> str:
    """What to say about a file that is in none of the folders."""
    return (
        f"{comfy_folders.not_there(name, FOLDERS)} Download one of DDColor's four files, "
        "such as ddcolor_modelscope.pth (github.com/piddnad/DDColor says where), put it into models/ddcolor and reload "
        "the "
        f"page; or choose '{EMBEDDED}'."
    )
