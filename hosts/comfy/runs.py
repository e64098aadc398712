"""A run, as edits and nodes see it: how many predictions it has made, what its user was told, and whether to stop."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .model import KEY, RUN

log = logging.getLogger(__name__)


class Run:
    """What is counted and said in one run. It lives as long as that.

    Of the noise levels that were read from the device the last ones are kept, until the next prediction begins.

    :ivar pictures: in the latent batch, 0 where that is not known.
    :ivar asked: the UNet was called under the edits at all.
    """

    def __init__(self, pictures: int = 0) -> None:
        self.pictures, self.asked = pictures, False
        self._said: set[str] = set()
        self._predictions = 0
        self._levels: dict[int, tuple[Tensor, tuple[float, ...]]] = {}

    def next_prediction(self) -> int:
        """The number of the prediction that begins, from 1."""
        self._predictions += 1
        self._levels.clear()
        return self._predictions

    def know(self, sigmas: Tensor, levels: tuple[float, ...]) -> None:
        """Keep the numbers of a tensor of noise levels for the rest of the prediction."""
        self._levels[id(sigmas)] = (sigmas, levels)

    def known(self, sigmas: Tensor) -> tuple[float, ...] | None:
        """The numbers of this very tensor; None where it was not read yet."""
        return self._levels.get(id(sigmas), (None, None))[1]

    def warn(self, text: str, about: str | None = None) -> None:
        """Say it once: in the log, and on the node that is running.

        :param about: what it is about, of which only the first is said; None for the text itself.
        """
        about = text if about is None else about
        if about in self._said:
            return
        self._said.add(about)
        say(text)


def read_levels(
    options: Mapping[str, Any], sigmas: Tensor, beside: Tensor | None = None
) -> tuple[tuple[float, ...], bool | None]:
    """Noise levels as numbers, and what else is to be known of a call: the host waits for the device once.

    :param options: of the call; their run knows the levels that were read for the prediction before.
    :param beside: () of bool, on the device of the levels.
    """
    run: Run | None = options.get(KEY, {}).get(RUN)
    levels = None if run is None else run.known(sigmas)
    if levels is not None:
        return levels, None if beside is None else bool(beside)
    asked = sigmas.flatten()
    asked = asked if beside is None else torch.cat([asked, beside.reshape(1).to(asked)])
    numbers = asked.cpu().tolist()  # moved as one: of some kinds of tensors a list is made number by number
    levels = tuple(numbers[: sigmas.numel()])
    if run is not None:
        run.know(sigmas, levels)
    return levels, None if beside is None else bool(numbers[-1])


def say(text: str) -> None:
    """Warn in the log, and on the node that is running where there is a server."""
    log.warning("%s", text)
    from comfy_execution.utils import get_executing_context
    from server import PromptServer

    server, running = getattr(PromptServer, "instance", None), get_executing_context()
    if server is not None and running is not None:
        server.send_progress_text(text, running.node_id)


def stop_if_canceled() -> None:
    """End the run where the user canceled it."""
    import comfy.model_management

    comfy.model_management.throw_exception_if_processing_interrupted()
