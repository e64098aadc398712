"""Where jobs are done: one at a time, each in a folder of its own, stopped within one step, told in one sentence."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .. import failures
from .pictures import Dropped, KeptPictures, read

#: Called with how many steps are done, of how many, and what is done.
OnStep = Callable[[int, int, str], None]


class Stopped(Exception):
    """The user stopped a job."""


class Refused(Exception):
    """What the user is told of a job that failed: one sentence."""


@dataclass
class Job:
    """One press of a button.

    :param session: of the page that it belongs to.
    :param folder: of its files; it goes with the job.
    :param on_step: is told how far it is.
    :param read: how it reads a file that was dropped.
    :ivar notes: warnings of the pack while it ran.
    """

    session: str
    folder: Path
    on_step: OnStep | None = None
    read: Callable[[str | Path], Dropped] = read
    notes: list[str] = field(default_factory=list)
    total: int = 1
    done: int = 0
    what: str = ""
    _stop: threading.Event = field(default_factory=threading.Event)

    def begin(self, total: int, what: str) -> None:
        """The next part of the work, of so many steps."""
        self.total, self.done, self.what = max(1, total), 0, what
        self._tell()

    def expect(self, left: int) -> None:
        """How many steps are still to come, where that grows."""
        self.total = self.done + left

    def step(self) -> None:
        """One step is done.

        :raises Stopped: the user does not want the others.
        """
        self.done += 1
        self._tell()

    def stop(self) -> None:
        """Let the job end with its next step."""
        self._stop.set()

    def check(self) -> None:
        """:raises Stopped: the user wants no more of it."""
        if self._stop.is_set():
            raise Stopped

    def _tell(self) -> None:
        self.check()
        if self.on_step is not None:
            self.on_step(min(self.done, self.total), self.total, self.what)


class Jobs:
    """Jobs of all pages, one after the other.

    :param folder: where their files are while they run.
    :param traceback: whether what fails unexpectedly is shown in the terminal, too.
    :ivar pictures: the files that were dropped on the pages.
    """

    def __init__(self, folder: Path, *, traceback: bool = False) -> None:
        self.folder, self.traceback, self.pictures = folder, traceback, KeptPictures()
        self._free, self._jobs = threading.Lock(), list[Job]()

    @contextmanager
    def job(self, session: str, files: Sequence[Path] = (), on_step: OnStep | None = None) -> Iterator[Job]:
        """A job, when those before it are done. Its folder is removed at the end.

        :param files: that were uploaded for it; messages name them without their folders.
        :raises Refused: it failed; the message is one sentence.
        :raises Stopped: the user stopped it.
        """
        job = Job(session, Path(tempfile.mkdtemp(prefix="job-", dir=self.folder)), on_step, self.pictures.read)
        self._jobs.append(job)
        try:
            with self._free:
                job.check()  # it may have been stopped while it waited
                with self._told(files), _noted(job.notes):
                    yield job
        finally:
            self._jobs.remove(job)
            shutil.rmtree(job.folder, ignore_errors=True)

    def stop(self, session: str) -> bool:
        """Stop the jobs of a page, those that wait included.

        :returns: whether there was one.
        """
        found = [job for job in self._jobs if job.session == session]
        for job in found:
            job.stop()
        return bool(found)

    @contextmanager
    def _told(self, files: Sequence[Path]) -> Iterator[None]:
        try:
            yield
        except (Stopped, Refused):
            raise
        except Exception as error:
            if self.traceback:
                import traceback

                traceback.print_exception(error)
            raise Refused(sentence(error, files)) from error


def sentence(error: BaseException, files: Sequence[Path] = ()) -> str:
    """What the user is told of an error.

    :param files: that are named without their folders, which are the server's business.
    """
    _, line = failures.told(error)
    said = line.removeprefix("error: ").replace(failures.MEMORY, "memory ran out; lower the resolution.")
    for file in files:
        said = said.replace(f"{file.parent}{os.sep}", "")
    return said


@contextmanager
def _noted(notes: list[str]) -> Iterator[None]:
    """The pack's warnings of this job, for its page."""
    ours, handler = logging.getLogger(__name__.rpartition(".cli.")[0]), _Notes(notes)
    ours.addHandler(handler)
    try:
        yield
    finally:
        ours.removeHandler(handler)


class _Notes(logging.Handler):
    """Each warning once; only one job runs, so that they are its own."""

    def __init__(self, notes: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._notes = notes

    def emit(self, record: logging.LogRecord) -> None:
        if (said := failures.one_line(record.getMessage())) not in self._notes:
            self._notes.append(said)
