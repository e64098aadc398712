"""A batch of pictures: what is read, where each result goes, and what to say when something fails in the middle.

Start at :func:`plan`. Whatever can be refused it refuses, before a model is loaded; it looks at headers only. Pixels
are read when it is a picture's turn, and each result is written when it is done.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from . import failures, names
from .terminal import say

if TYPE_CHECKING:
    from torch import Tensor

    from ..files.pictures import FileFacts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One picture and where its result goes.

    :param sheet: where its contact sheet goes; None for no sheet.
    :param size: (height, width), turned upright.
    """

    source: Path
    result: Path
    sheet: Path | None
    size: tuple[int, int]


class Batch:
    """Pictures on their way; what was read of one is let go when its result is written.

    :param bits: of a sample in the results.
    :param one_size: whether work rests on it that all have one size.
    """

    def __init__(self, jobs: list[Job], bits: Literal[8, 16], one_size: bool) -> None:
        self.jobs, self.one_size = jobs, one_size
        self.bits: Literal[8, 16] = bits
        self._facts: dict[Path, FileFacts] = {}
        self._current: tuple[Job, ...] = ()
        self._written = 0

    def groups(self) -> list[list[Job]]:
        """Consecutive pictures of one size."""
        return [list(group) for _, group in groupby(self.jobs, key=lambda job: job.size)]

    def read(self, *jobs: Job) -> Tensor:
        """(n, H, W, 3) in 0..1: some pictures of one size, transparency laid on white.

        :raises ValueError: one is not a readable picture.
        """
        import torch

        self._current = jobs
        pictures = [self._read(job) for job in jobs]
        return pictures[0] if len(pictures) == 1 else torch.cat(pictures)

    def _read(self, job: Job) -> Tensor:
        import torch

        from ..color import drop_alpha
        from ..files.pictures import read_photograph

        photograph = read_photograph(job.source)
        for note in photograph.facts.notes:
            log.warning("%s: %s", job.source, note)
        image, alpha = photograph.images, photograph.alpha
        if tuple(image.shape[1:3]) != job.size and (len(self._current) > 1 or self.one_size):
            raise ValueError(f"{job.source} has other sides than its header says; save it anew with a picture editor.")
        self._facts[job.source] = photograph.facts
        return image if alpha is None else drop_alpha(torch.cat([image, alpha[..., None]], -1))

    def write(self, job: Job, image: Tensor, sheet: Tensor | None = None) -> None:
        """Write a result, (1, H, W, 3), with what its picture's file said, and its sheet; say where."""
        from ..files.pictures import save_picture

        self._current = (job,)
        save_picture(image, job.result, bits=self.bits, facts=self._facts.pop(job.source))
        self._written += 1
        say(job.result)
        if sheet is not None and job.sheet is not None:
            save_picture(sheet, job.sheet)
            say(job.sheet)

    @contextmanager
    def working(self) -> Iterator[None]:
        """The work itself; its errors name the picture, and how many results were written before.

        :raises ValueError: what cannot be read, colored or written.
        :raises MemoryError: memory ran out.
        :raises UnexpectedError: a mistake of ours or of a library.
        """
        from ..color.batches import ran_out

        try:
            yield
        except Exception as error:
            if ran_out(error):
                raise MemoryError(self._told(failures.MEMORY)) from error
            kind = ValueError if isinstance(error, (ValueError, OSError, ImportError)) else failures.UnexpectedError
            raise kind(self._told(failures.said(error))) from error

    def _told(self, said: str) -> str:
        """A message, with the picture's name if it lacks one, and what was done before."""
        known = [str(path) for job in self._current for path in (job.source, job.result)]
        if self._current and not any(path in said for path in known):
            said = f"{', '.join(str(job.source) for job in self._current)}: {said}"
        if not self._written:
            return said
        return f"{said.rstrip('.')}. {self._written} of {len(self.jobs)} results are written."


def plan(
    options: argparse.Namespace,
    what: str = "colored",
    *,
    sheets: bool = False,
    pictures: Mapping[str, Path | None] | None = None,
    files: Mapping[str, Path | None] | None = None,
    folders: Sequence[str] = (),
    saves: Mapping[str, Path | None] | None = None,
    one_size: str = "",
) -> Batch:
    """Where everything goes, once nothing stands against it. Folders are made; nothing else is written.

    :param what: the word that results have in their names.
    :param sheets: whether each result has a contact sheet beside it.
    :param pictures: other pictures that are read, by the names of their options. ``files``: other files.
    :param folders: the options of files that may name a folder.
    :param saves: what else is written, by the names of the options.
    :param one_size: the option that wants all pictures to have one size.
    :raises FileNotFoundError: something is missing.
    :raises ValueError: something is no picture, a place can't be written to, or one file would replace another.
    """
    from ..files.pictures import picture_size

    results = names.results(options.inputs, options.output, what)
    for option, path in (files or {}).items():
        if path is not None:
            names.check_read(option, path, folders=option in folders)
    sizes = [picture_size(path) for path in options.inputs]
    for path in (pictures or {}).values():
        if path is not None:
            picture_size(path)
    if one_size and len(set(sizes)) > 1:
        raise ValueError(
            f"{one_size} wants the frames of one video, but the inputs have {len(set(sizes))} sizes; leave it out."
        )
    jobs = [
        Job(source, result, result.with_name(f"{result.stem}_sheet.png") if sheets else None, size)
        for source, result, size in zip(options.inputs, results, sizes, strict=True)
    ]
    names.check_collisions(
        options.inputs,
        [(option, path) for option, path in {**(pictures or {}), **(files or {})}.items() if path is not None],
        [*_writes(jobs), *((option, path) for option, path in (saves or {}).items() if path is not None)],
    )
    _check_destinations(jobs, options.bits)
    return Batch(jobs, options.bits, bool(one_size))


def _writes(jobs: list[Job]) -> Iterator[tuple[str, Path]]:
    for job in jobs:
        yield f"the result of {job.source}", job.result
        if job.sheet is not None:
            yield f"the sheet of {job.source}", job.sheet


def _check_destinations(jobs: list[Job], bits: Literal[8, 16]) -> None:
    """Whether all files can be written under their names; folders are made."""
    from ..files.output import check_destinations
    from ..files.pictures import WRITTEN, check_format

    for job in jobs:
        check_format(job.result, bits, job.size)
    check_destinations([path for _, path in _writes(jobs)], WRITTEN)
