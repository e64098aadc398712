"""Workers of an archive on many machines, by Ray: an actor with a model each.

All machines need this package, the model's file, the pictures and the place of the results under the same names (a
shared drive). A file's error is caught inside the task; an actor or a machine that dies is replaced, and what it had is
given out again (:class:`.archive.Run`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from ..files.archive.receipts import Outcome
from .archive import Item, Worker, Writing
from .archive_pools import Build, broken

#: How long an address is tried, as Ray reads it when it is imported and begun: else it is ten minutes.
_PATIENCE = {
    "RAY_NUM_REDIS_GET_RETRIES": "3",
    "RAY_py_gcs_connect_timeout_s": "10",
    "RAY_gcs_rpc_server_connect_timeout_s": "5",
}


@contextmanager
def _patience(address: str) -> Iterator[None]:
    """Give up on a cluster that does not answer within about a minute; what a user set in the environment counts."""
    own = {} if address == "local" else {name: value for name, value in _PATIENCE.items() if name not in os.environ}
    os.environ.update(own)
    try:
        yield
    finally:
        for name in own:
            os.environ.pop(name, None)


class Actor:
    """A worker as Ray keeps it; its model is loaded with the first files, so that an error comes back as such."""

    def __init__(self, build: Build, writing: Writing) -> None:
        self._build, self._writing = build, writing
        self._worker: Worker | None = None

    def work(self, items: Sequence[Item]) -> tuple[str, Any]:
        """``done`` and outcomes, or ``broken`` and why there is no model."""
        if self._worker is None:
            try:
                self._worker = Worker(self._build(), self._writing)
            except Exception as error:  # noqa: BLE001  # it is told by the driver
                return "broken", broken(error)
        return "done", self._worker.work(items)

    def process_id(self) -> int:
        """Of the actor's process."""
        return os.getpid()


class Cluster:
    """Actors of a cluster.

    :param address: ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``; ``local`` begins a cluster of this machine alone.
    :param size: how many; 0 for one on each GPU where ``gpus``, else on each core.
    :param gpus: whether each has a GPU.
    :raises ValueError: Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(self, address: str, size: int, build: Build, writing: Writing, *, gpus: bool = False) -> None:
        try:
            with _patience(address):
                self._ray: Any = import_module("ray")
        except ImportError as error:
            raise ValueError(
                'Ray is not installed, which --address asks; pip install "exemplar[cluster]", or leave --address out.'
            ) from error
        ray = self._ray
        try:
            with _patience(address):
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=None)
        except Exception as error:
            raise ValueError(
                f"No Ray cluster can be reached at {address} ({' '.join(str(error).split())[:200]}); look whether it "
                "runs (ray status) and at the address, or leave --address out."
            ) from error
        self.size = size or max(1, int(ray.cluster_resources().get("GPU" if gpus else "CPU", 1)))
        needs = {"num_cpus": 1, "num_gpus": 1 if gpus else 0, "max_restarts": 0}
        self._actor = ray.remote(**needs)(Actor)
        self._made = (build, writing)
        self._actors = [self._actor.remote(*self._made) for _ in range(self.size)]
        self._given: dict[Any, int] = {}

    @property
    def process_ids(self) -> list[int]:
        """Of the actors."""
        return self._ray.get([each.process_id.remote() for each in self._actors])

    def give(self, worker: int, items: Sequence[Item]) -> None:
        """See :class:`.archive.Pool`."""
        self._given[self._actors[worker].work.remote(list(items))] = worker

    def next(self) -> tuple[int, list[Outcome] | None]:
        """See :class:`.archive.Pool`."""
        (ready, *_), _ = self._ray.wait(list(self._given), num_returns=1)
        worker = self._given.pop(ready)
        try:
            kind, said = self._ray.get(ready)
        except self._ray.exceptions.RayError:  # its process or its machine is gone; files' errors are outcomes
            self._actors[worker] = self._actor.remote(*self._made)
            return worker, None
        if kind == "broken":
            raise ValueError(said)
        return worker, said

    def close(self) -> None:
        """See :class:`.archive.Pool`."""
        for each in self._actors:
            self._ray.kill(each)
        self._ray.shutdown()
