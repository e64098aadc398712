"""What happens on the pretended device between one call of a UNet and the next."""

from collections import Counter
from itertools import pairwise

import torch

from ....fixtures.pretended_gpu import DEVICE, PretendedGPU
from .. import models


class Laps:
    """Events by call of a MODEL's UNet: those of a lap begin within a call and end within the next one.

    The first laps hold what is done once a run, in its first step's layers.

    :param warm: how many those are: the calls of a step.
    """

    def __init__(self, gpu: PretendedGPU, model, warm: int = 1) -> None:
        self.gpu, self.unet, self.warm, self.marks = gpu, model.model.diffusion_model, warm, []

    def __enter__(self):
        first = self.unet.input_blocks[0][0]
        self._hook = first.register_forward_pre_hook(lambda *_: self.marks.append(len(self.gpu.events)))
        return self

    def __exit__(self, *_):
        self._hook.remove()

    @property
    def steady(self) -> list[Counter]:
        """(kind, line) -> how often, for every lap but the first ones, of the package's own lines."""
        marks = self.marks[self.warm :]
        return [
            Counter((event.kind, event.place) for event in self.gpu.events[begin:end] if event.ours)
            for begin, end in pairwise(marks)
        ]


def tiny(family):
    """A tiny MODEL of a family that runs on the device."""
    model = models.tiny(family)
    model.load_device = DEVICE
    return model


def noise(*shape, scale=1.0, seed=1):
    """A LATENT of noise."""
    return {"samples": scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))}
