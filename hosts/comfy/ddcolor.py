"""DDColor under ComfyUI's model manager."""

from __future__ import annotations

import comfy.model_management
import torch
from torch import Tensor

from ... import demo
from ...networks.ddcolor.load import LoadedDDColor, fitting, load_ddcolor, memory_of
from ...pipelines.recommended import SYSTEMS
from .folders import DDCOLOR
from .managed import ManagedNetwork

#: For how many frames ComfyUI is asked to make room, at the cost of other models. More run together if they fit anyway.
MAKE_ROOM_FOR = 16


class ComfyDDColor(ManagedNetwork):
    """A DDColor network as the pipeline asks for it (``pipelines.ddcolor.ColorNetwork``). This is the type DDCOLOR.

    :param loaded: a network on the CPU.
    """

    def __init__(self, loaded: LoadedDDColor) -> None:
        mm = comfy.model_management
        super().__init__(loaded.network, mm.get_torch_device(), mm.unet_offload_device())
        self.name, self.variant, self.recommended = loaded.name, loaded.variant, loaded.recommended

    def __call__(self, gray: Tensor) -> Tensor:
        """(n, 3, h, w) in 0..1 -> a and b, (n, 2, h, w), float32 on the CPU."""
        self.load(memory_of(self.network, len(gray), *gray.shape[-2:]))
        return self.network(gray.to(self.device)).cpu()

    def frames_at_once(self, frames: int, height: int, width: int) -> int:
        """How many of some frames to hand over at once: what fits the memory that the loaded network leaves free."""
        if self.patcher.load_device.type != "cpu":
            self.load(memory_of(self.network, min(frames, MAKE_ROOM_FOR), height, width))
        if self.device.type == "cpu":
            return 1  # single frames are faster there, as more of their numbers stay in its caches
        free = comfy.model_management.get_free_memory(self.device)
        return fitting(free, self.network, frames, height, width)


def load(name: str, dtype: torch.dtype) -> ComfyDDColor:
    """A file of the folders, by its name, or the embedded one.

    :raises FileNotFoundError: no folder has it.
    :raises ValueError: it cannot be read as plain weights, or they are not DDColor's.
    """
    return ComfyDDColor(load_ddcolor(DDCOLOR.path(name, demo.ddcolor_path()), dtype=dtype, systems=SYSTEMS))
