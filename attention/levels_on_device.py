"""Kept features on the device that asks for them, a noise level at a time."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping

import torch
from torch import Tensor

from .bank import is_on


class LevelReader:
    """What an edit reads of kept tensors, on the device of the call that asks.

    Features live in main memory, where there is room for all levels; a run needs one after the other. The first call at
    a level sends all that the edit reads there, in one go, and lets the level before go first. So a device never has
    more than one level, and until the next one nothing is sent. A tensor of several names goes once, and those that are
    on the device already are handed over as they are, without a copy.

    Lifetime: one run, whose owner, the edit, calls :meth:`forget` when it ends. Each device has a level of its own: a
    host may run a batch on several.

    :param at: level -> what the edit reads there, by names of its own.
    """

    def __init__(self, at: Callable[[float], Mapping[Hashable, Tensor]]) -> None:
        self._at = at
        self._here: dict[torch.device, tuple[float, Mapping[Hashable, Tensor]]] = {}

    def read(self, level: float, device: torch.device, name: Hashable) -> Tensor:
        """One of the tensors of a level, whole, on a device."""
        if device not in self._here or self._here[device][0] != level:
            self._here.pop(device, None)  # first, so that two levels are never there at once
            found = self._at(level)
            sent = {id(tensor): tensor.to(device) for tensor in _each_once(found)}
            self._here[device] = level, {key: sent[id(tensor)] for key, tensor in found.items()}
        return self._here[device][1][name]

    def holds(self, device: torch.device, levels: Iterable[float]) -> int:
        """Bytes that a device gets at most in a run over some levels; 0 where all is there already."""
        elsewhere = (
            sum(tensor.nbytes for tensor in _each_once(self._at(level)) if not is_on(tensor, device))
            for level in levels
        )
        return max(elsewhere, default=0)

    def forget(self) -> None:
        """Let go of what was sent."""
        self._here.clear()


def _each_once(found: Mapping[Hashable, Tensor]) -> Iterable[Tensor]:
    return {id(tensor): tensor for tensor in found.values()}.values()
