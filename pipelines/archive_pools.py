"""Workers of an archive on this machine: this process itself, or several processes with a model each.

A process that dies is replaced. One whose driver died ends before its next file; until then it holds a lock, for which
the next driver waits, so that no file is done by both.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ..files.archive.receipts import Outcome
from .archive import Item, Method, Worker, Writing

#: Makes a worker's method; it goes to other processes by its name, with what it is a method or partial of.
Build = Callable[[], Method]

#: How often a worker may die before its model is loaded.
_LOADS = 4
#: Seconds for workers of a driver that died to end: one picture may take minutes.
PATIENCE = 600.0


class InProcess:
    """One worker: this process. The model is loaded with the first files."""

    size = 1

    def __init__(self, build: Build, writing: Writing) -> None:
        self._build, self._writing = build, writing
        self._worker: Worker | None = None
        self._items: Sequence[Item] = ()

    def give(self, worker: int, items: Sequence[Item]) -> None:
        """See :class:`.archive.Pool`."""
        self._items = items

    def next(self) -> tuple[int, list[Outcome] | None]:
        """See :class:`.archive.Pool`."""
        if self._worker is None:
            self._worker = Worker(self._build(), self._writing)
        return 0, self._worker.work(self._items)

    def close(self) -> None:
        """See :class:`.archive.Pool`."""
        if self._worker is not None:
            self._worker.close()


@dataclass
class _Process:
    process: BaseProcess
    connection: Any
    items: Sequence[Item] = field(default=())
    is_ready: bool = False
    loads: int = 1


class Processes:
    """Several processes of this machine, each with a model of its own and its share of the cores."""

    def __init__(self, size: int, build: Build, writing: Writing) -> None:
        self.size, self._build, self._writing = size, build, writing
        self._workers = [self._started() for _ in range(size)]

    def _started(self) -> _Process:
        context = get_context("spawn")  # a fork of a process with threads may hang
        ours, theirs = context.Pipe()
        threads = max(1, torch.get_num_threads() // self.size)
        process = context.Process(
            target=serve, args=(theirs, self._build, self._writing, threads, os.getpid()), daemon=True
        )
        process.start()
        theirs.close()
        return _Process(process, ours)

    @property
    def process_ids(self) -> list[int]:
        """Of the workers."""
        return [each.process.pid or 0 for each in self._workers]

    def give(self, worker: int, items: Sequence[Item]) -> None:
        """See :class:`.archive.Pool`."""
        self._workers[worker].items = items
        with suppress(OSError):  # dead already; waiting for it tells
            self._workers[worker].connection.send(items)

    def next(self) -> tuple[int, list[Outcome] | None]:
        """See :class:`.archive.Pool`."""
        while True:
            busy = {each.connection: number for number, each in enumerate(self._workers) if each.items}
            for connection in wait(list(busy)):
                number = busy[connection]  # type: ignore[index]
                each = self._workers[number]
                try:
                    kind, said = each.connection.recv()
                except (EOFError, OSError):
                    if self._replaced(number):
                        return number, None
                    continue
                if kind == "ready":
                    each.is_ready = True
                elif kind == "broken":
                    raise ValueError(said)
                else:
                    each.items = ()
                    return number, said

    def _replaced(self, number: int) -> bool:
        """Start a worker anew; whether the dead one had begun with its files.

        :raises ValueError: it died too often before its model was loaded.
        """
        dead = self._workers[number]
        dead.connection.close()
        dead.process.join()
        if not dead.is_ready and dead.loads >= _LOADS:
            raise ValueError(
                f"A worker died {dead.loads} times while it loaded its model (exit code {dead.process.exitcode}); "
                "memory may not suffice for so many: use fewer --workers."
            )
        new = self._workers[number] = self._started()
        if dead.is_ready:
            return True
        new.loads = dead.loads + 1
        self.give(number, dead.items)
        return False

    def close(self) -> None:
        """See :class:`.archive.Pool`."""
        for each in self._workers:
            each.connection.close()  # it ends when it has done what it is at
        for each in self._workers:
            each.process.join(5)
            if each.process.is_alive():
                each.process.kill()
                each.process.join()


def serve(connection: Connection, build: Build, writing: Writing, threads: int, driver: int) -> None:
    """A worker's life: load a model, then do what comes until nothing comes any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides
    torch.set_num_threads(threads)
    lock = hold(Path(writing.journal))
    try:
        worker = Worker(build(), writing, lambda: os.getppid() == driver)
    except Exception as error:  # noqa: BLE001  # it is told by the driver
        connection.send(("broken", broken(error)))
        return
    with suppress(EOFError, OSError):  # nobody is there any more
        connection.send(("ready", None))
        while True:
            connection.send(("done", worker.work(connection.recv())))
    worker.close()
    if lock is not None:
        lock.close()


def broken(error: Exception) -> str:
    """What is said of a worker that has no model."""
    said = str(error) if isinstance(error, (ValueError, OSError, ImportError)) else f"{type(error).__name__}: {error}"
    return f"A worker cannot begin: {said}"


def _locking() -> Any:
    """The module of locks between processes; none on Windows."""
    try:
        import fcntl
    except ImportError:
        return None
    return fcntl


def hold(journal: Path) -> BinaryIO | None:
    """Say that a worker lives, until the file that is given back is closed or the process ends."""
    locking = _locking()
    if locking is None:
        return None
    file = (journal / "workers").open("a+b")
    try:
        locking.lockf(file, locking.LOCK_SH | locking.LOCK_NB)
    except OSError:  # no locks on this drive
        file.close()
        return None
    return file


def wait_for_workers(journal: Path, patience: float = PATIENCE) -> None:
    """Wait until no worker of a driver that died is left.

    :raises ValueError: one still works after some seconds.
    """
    locking = _locking()
    if locking is None or not (journal / "workers").exists():
        return
    end = time.monotonic() + patience
    with (journal / "workers").open("r+b") as file:
        while True:
            try:
                locking.lockf(file, locking.LOCK_EX | locking.LOCK_NB)
            except OSError as error:
                if error.errno not in (11, 13):  # EAGAIN, EACCES: held; all else: no locks here
                    return
                if time.monotonic() > end:
                    raise ValueError(
                        f"A worker of a run that ended still writes to {journal.parent}; end it, or wait and run again."
                    ) from error
                time.sleep(0.1)
            else:
                return
