"""What both trainings share: a plan of stages, and a checkpoint that an interruption cannot spoil."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from comfyui_exemplar.files.output import whole


class Steps(Protocol):
    steps: int


S = TypeVar("S", bound=Steps)


def stage_at(stages: Sequence[S], step: int) -> S:
    """The stage that a step belongs to; the last one also beyond the end."""
    for stage in stages:
        if step < stage.steps:
            return stage
        step -= stage.steps
    return stages[-1]


class Rated(Steps, Protocol):
    rate: float


def learning_rate(stages: Sequence[Rated], step: int, first: float, warm_up: int, last_share: float) -> float:
    """A warm-up and half a cosine wave over each run of stages that begins with a ``rate`` other than 0.

    :param first: peak of the first run.
    :param last_share: of a peak, what is left at the end of its run.
    """
    start, length, peak = 0, 0, first
    for stage in stages:
        if stage.rate:
            if step < start + length:
                break
            start, length, peak = start + length, 0, stage.rate
        length += stage.steps
    done = step - start
    cosine = 0.5 * (1 + math.cos(math.pi * done / length))
    return peak * min(1, (done + 1) / min(warm_up, length / 10)) * (last_share + (1 - last_share) * cosine)


class Resumable:
    """A training whose network, averaged weights, optimizer and step go into ``checkpoint``."""

    checkpoint: Path
    net: nn.Module
    average: Mapping[str, Tensor]
    optimizer: torch.optim.Optimizer
    step: int

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """By the names that they have in a checkpoint."""
        return {"optimizer": self.optimizer}

    def save(self) -> None:
        """Written beside the old checkpoint first, so that an interruption leaves one of them whole."""
        state = {"step": self.step, "net": self.net.state_dict(), "average": self.average}
        state |= {name: optimizer.state_dict() for name, optimizer in self.optimizers().items()}
        with whole(self.checkpoint) as beside:
            torch.save(state, beside)

    def resume(self) -> None:
        state = torch.load(self.checkpoint, map_location=next(self.net.parameters()).device, weights_only=True)
        self.step = state["step"]
        self.net.load_state_dict(state["net"])
        for name, optimizer in self.optimizers().items():
            optimizer.load_state_dict(state[name])
        self.average = state["average"]
