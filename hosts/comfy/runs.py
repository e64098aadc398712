"""A run, as edits and nodes see it: how many predictions it has made, what its user was told, and whether to stop."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)


class Run:
    """What is counted and said in one run. It lives as long as that.

    :ivar pictures: in the latent batch, 0 where that is not known.
    :ivar asked: the UNet was called under the edits at all.
    """

    def __init__(self, pictures: int = 0) -> None:
        self.pictures, self.asked = pictures, False
        self._said: set[str] = set()
        self._predictions = 0

    def next_prediction(self) -> int:
        """The number of the prediction that begins, from 1."""
        self._predictions += 1
        return self._predictions

    def warn(self, text: str, about: str | None = None) -> None:
        """Say it once: in the log, and on the node that is running.

        :param about: what it is about, of which only the first is said; None for the text itself.
        """
        about = text if about is None else about
        if about in self._said:
            return
        self._said.add(about)
        say(text)


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
