"""What an edit makes on the CPU and needs on the device: masks, indices, tables."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor


class Constants:
    """Tensors that were sent to a device, by what they are. Each is made and sent once, in the first step that asks.

    Lifetime: one run. Whoever holds it calls :meth:`clear` when the run ends, or goes away with it.
    """

    def __init__(self) -> None:
        self._sent: dict[tuple[Hashable, ...], Tensor] = {}

    def on(self, device: torch.device, made: Callable[[], Tensor], *what: Hashable) -> Tensor:
        """A tensor on a device.

        :param made: makes it, wherever it likes.
        :param what: everything that it depends on.
        """
        at = (device, *what)
        if at not in self._sent:
            self._sent[at] = made().to(device)
        return self._sent[at]

    def clear(self) -> None:
        """Let everything go."""
        self._sent.clear()
