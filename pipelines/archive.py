"""Thousands of pictures through one method: what a worker does with a few, and who gives them to workers.

    journal --chunks--> pool of workers --outcomes--> journal

A worker (:class:`Worker`) has one model. A file's error is caught where it happens and is that file's alone; a worker
that dies loses nothing: what it finished is known by its receipts, the rest is given out again. Pools are in
:mod:`.archive_pools` (this process, processes of this machine) and :mod:`.archive_cluster` (Ray).
"""

from __future__ import annotations

import base64
import io
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from ..color import drop_alpha, resize
from ..color.batches import Batches, ran_out
from ..files.archive.finding import digest_of
from ..files.archive.folders import FolderSettings
from ..files.archive.journal import TRIES, Journal, Row
from ..files.archive.receipts import Outcome, Receipts, read_receipts
from ..files.archive.xmp import add_xmp, read_xmp
from ..files.output import is_full, whole
from ..files.photographs import FileFacts
from ..files.pictures import read_photograph, save_picture

log = logging.getLogger(__name__)

#: Files that a worker is given at once: few, so that no worker waits long for the others at the end.
CHUNK = 8
#: Outcomes and seconds after which the journal is written.
_MOST_HELD, _LONGEST_HELD = 256, 0.5
#: Height of a thumbnail.
_SMALL = 120
_LONGEST_ERROR = 500

DIED = "its worker died at it; it may be too large for the memory, or harm a library"


class Method(Protocol):
    """What colors pictures, with its model.

    ``at_once`` is the most pictures in a call: as many as memory is thought to hold.
    """

    at_once: int

    def __call__(self, pictures: Tensor, folder: FolderSettings) -> tuple[Tensor, list[float | None]]:
        """(n, H, W, 3) in 0..1 -> the same in color, and how sure each is, 0..1, or None where it tells nothing."""
        ...

    def out_of_memory(self, error: Exception) -> bool:
        """Whether an error says that memory ran out; if so, what can be freed is freed."""
        ...


@dataclass(frozen=True)
class Item:
    """A file for a worker.

    :param content: SHA-256 of the file.
    """

    number: int
    source: str
    result: str
    folder: FolderSettings
    content: str = ""

    @property
    def work(self) -> str:
        """What is to be done, so that the result of other content is not taken for this one's."""
        return f"{self.content} {self.folder.digest}"


@dataclass(frozen=True)
class Writing:
    """How results are written.

    :param journal: the folder of the journal, where receipts go.
    :param thumbnails: whether outcomes have them.
    """

    journal: str
    bits: Literal[8, 16] = 8
    thumbnails: bool = True


@dataclass
class _Read:
    item: Item
    picture: Tensor
    facts: FileFacts
    seconds: float


class Worker:
    """One model, and the files that it is given.

    :param is_wanted: whether somebody still waits for it; asked before each file.
    """

    def __init__(self, method: Method, writing: Writing, is_wanted: Callable[[], bool] = lambda: True) -> None:
        self.method, self.writing, self.is_wanted = method, writing, is_wanted
        self._receipts = Receipts(Path(writing.journal))
        self._batches = Batches(method.at_once, method.out_of_memory)

    def work(self, items: Sequence[Item]) -> list[Outcome]:
        """Color files, those of one size and one folder together. What fails is an outcome like others."""
        done: list[Outcome] = []
        for folder, group in groupby(items, key=lambda item: item.folder):
            waiting = deque(group)
            while waiting and not any(outcome.stops for outcome in done):
                read: list[_Read] = []
                while waiting and len(read) < self._batches.at_once:
                    item = waiting.popleft()
                    if not self.is_wanted():
                        return done
                    try:
                        read.append(_read(item))
                    except Exception as error:  # noqa: BLE001  # a decoder may raise anything; it is this file's
                        done.append(_failed(item, error, 0.0))
                for _, alike in groupby(read, key=lambda each: each.picture.shape):
                    done += self._colored(list(alike), folder)
        return done

    def close(self) -> None:
        """No more are coming."""
        self._receipts.close()

    def _colored(self, read: list[_Read], folder: FolderSettings) -> Iterator[Outcome]:
        start, images, done = time.monotonic(), torch.cat([each.picture for each in read]), 0
        try:
            for part, (colored, sure) in self._batches.of(len(read), lambda part: self.method(images[part], folder)):
                seconds = (time.monotonic() - start) / (part.stop - part.start)
                for index, each in enumerate(read[part]):
                    yield self._written(each, colored[index][None], sure[index], seconds)
                done, start = part.stop, time.monotonic()
        except Exception as error:  # noqa: BLE001  # whatever it is, it is told with the file
            if len(read) == 1:
                yield _failed(read[0].item, error, time.monotonic() - start)
            else:  # one of them is to blame: each alone
                for each in read[done:]:
                    yield from self._colored([each], folder)

    def _written(self, read: _Read, image: Tensor, confidence: float | None, seconds: float) -> Outcome:
        item, start = read.item, time.monotonic()
        result = Path(item.result)
        try:
            small = _thumbnail(read.picture, image) if self.writing.thumbnails else ""
            result.parent.mkdir(parents=True, exist_ok=True)
            with whole(result) as beside:
                save_picture(image, beside, bits=self.writing.bits, facts=read.facts)
                add_xmp(beside, read_xmp(Path(item.source)))
                seconds += read.seconds + time.monotonic() - start
                outcome = Outcome(item.number, digest_of(beside), confidence, round(seconds, 4), "", small, item.work)
                self._receipts.add(outcome)
        except Exception as error:  # noqa: BLE001  # as above
            return _failed(item, error, seconds)
        return outcome


def _foreign(result: str) -> str:
    return (
        f"{result} is there already and is not of this archive, so it is not replaced; move it away, or choose another "
        "output."
    )


def _read(item: Item) -> _Read:
    start = time.monotonic()
    photograph = read_photograph(item.source)
    picture, alpha = photograph.images, photograph.alpha
    if alpha is not None:
        picture = drop_alpha(torch.cat([picture, alpha[..., None]], -1))
    return _Read(item, picture, photograph.facts, time.monotonic() - start)


def _failed(item: Item, error: Exception, seconds: float) -> Outcome:
    if ran_out(error):
        said = "memory ran out, even with this picture alone; lower the resolution"
    elif isinstance(error, (ValueError, OSError, ImportError)):
        said = str(error) or type(error).__name__
    else:
        said = f"unexpected {type(error).__name__}: {error}; please report it"
    return Outcome(item.number, seconds=seconds, error=" ".join(said.split())[:_LONGEST_ERROR], stops=is_full(error))


def _thumbnail(picture: Tensor, image: Tensor) -> str:
    """Picture and result side by side as a small JPEG, base64."""
    from PIL import Image

    height, width = picture.shape[1:3]
    size = (_SMALL, max(1, min(3 * _SMALL, round(width * _SMALL / height))))
    both = torch.cat([resize(each.float().cpu(), size) for each in (picture, image)], 2)[0]
    made = io.BytesIO()
    Image.fromarray((both.clamp(0, 1) * 255).round().byte().numpy()).save(made, "JPEG", quality=80)
    return base64.b64encode(made.getvalue()).decode()


class Pool(Protocol):
    """Workers, by numbers from 0 to ``size`` - 1. A worker that dies is replaced under its number."""

    size: int

    def give(self, worker: int, items: Sequence[Item]) -> None:
        """Give files to a worker that has none."""
        ...

    def next(self) -> tuple[int, list[Outcome] | None]:
        """Wait for a worker; None in place of outcomes where it died.

        :raises ValueError: its model cannot be loaded.
        """
        ...

    def close(self) -> None:
        """End all workers."""
        ...


class Run:
    """A run over what waits in a journal.

    :param items: of rows of the journal.
    :param on_outcomes: told of each when the journal has it.
    """

    def __init__(
        self,
        journal: Journal,
        pool: Pool,
        item_of: Callable[[Row], Item],
        on_outcomes: Callable[[Sequence[Outcome]], None] = lambda outcomes: None,
    ) -> None:
        self.journal, self.pool, self.item_of, self.on_outcomes = journal, pool, item_of, on_outcomes
        self._held: list[Outcome] = []
        self._since = time.monotonic()
        self._deaths: dict[int, int] = {}

    def work(self) -> None:
        """Do all that waits, then what failed once more, each alone; then files of the same content.

        :raises OSError: the disk is full; what is done stays done.
        """
        self._adopt_all()
        try:
            self._all(_chunks(map(self.item_of, self.journal.rows("waiting")), CHUNK))
            self._flush()
            self._all(_chunks(map(self.item_of, self.journal.rows("failed", tries=TRIES - 1)), 1))
        finally:
            self._flush()
        self._copy()

    def _all(self, chunks: Iterator[list[Item]]) -> None:
        idle, busy = list(range(self.pool.size)), dict[int, list[Item]]()
        again: deque[list[Item]] = deque()
        stopped = ""
        while True:
            while idle and not stopped and (chunk := again.popleft() if again else next(chunks, None)):
                busy[idle[-1]] = chunk
                self.pool.give(idle.pop(), chunk)
            if not busy:
                break
            worker, outcomes = self.pool.next()
            items = busy.pop(worker)
            idle.append(worker)
            if outcomes is None:
                outcomes = self._after_death(items, again)
            stopped = stopped or next((outcome.error for outcome in outcomes if outcome.stops), "")
            self._hold([outcome for outcome in outcomes if not outcome.stops])
        if stopped:
            raise OSError(f"{stopped} The same command goes on with the rest.")

    def _after_death(self, items: list[Item], again: deque[list[Item]]) -> list[Outcome]:
        """What a worker had finished; the rest goes out again, each alone, so that one that kills is known."""
        adopted = self._adopted(items)
        known = {outcome.number for outcome in adopted}
        for item in items:
            if item.number in known:
                continue
            if len(items) == 1:
                self._deaths[item.number] = self._deaths.get(item.number, 0) + 1
            if self._deaths.get(item.number, 0) >= TRIES:
                adopted.append(Outcome(item.number, error=DIED))
            else:
                again.append([item])
        return adopted

    def _hold(self, outcomes: Iterable[Outcome]) -> None:
        self._held += outcomes
        if len(self._held) >= _MOST_HELD or time.monotonic() - self._since >= _LONGEST_HELD:
            self._flush()

    def _flush(self) -> None:
        held, self._held, self._since = self._held, [], time.monotonic()
        if held:
            self.journal.record(held)
            self.on_outcomes(held)

    def _adopt_all(self) -> None:
        """Results of workers whose driver was killed before it heard of them.

        :raises ValueError: a file stands in a result's place that this archive did not write.
        """
        for items in _chunks(map(self.item_of, self.journal.rows("waiting")), _MOST_HELD):
            if any(os.path.lexists(item.result) for item in items):
                self._hold(self._adopted(items, are_owned=self._is_owned))
        for row in self.journal.rows("same"):
            if os.path.lexists(result := self.item_of(row).result) and not self._is_owned(row.number):
                raise ValueError(_foreign(result))
        self._flush()

    def _is_owned(self, number: int) -> bool:
        return self.journal.owns(self.journal.row(number).place)

    def _adopted(self, items: list[Item], are_owned: Callable[[int], bool] | None = None) -> list[Outcome]:
        """Outcomes of files that have a result under its name with a receipt of its very content.

        :param are_owned: whether a result of no receipt is the archive's, by the file's number; None where it must be.
        """
        there = {item.number: item for item in items if os.path.lexists(item.result)}
        digests = {number: digest_of(Path(item.result)) for number, item in there.items()}
        receipts = [
            outcome
            for outcome in (read_receipts(self.journal.folder, there) if there else ())
            if outcome.output == digests[outcome.number]
        ]
        if are_owned is not None:
            known = {outcome.number for outcome in receipts}
            for number, item in there.items():
                if number not in known and not are_owned(number):
                    raise ValueError(_foreign(item.result))
        return list({each.number: each for each in receipts if each.work == there[each.number].work}.values())

    def _copy(self) -> None:
        """Results of files whose content another one has: its own result, under their names."""
        for row in self.journal.rows("same"):
            first = self.journal.row(row.first or 0)
            if first.state != "done":
                self._hold([Outcome(row.number, error=f"as {first.path}, which it is a copy of: {first.error}")])
                continue
            place, source = Path(self.item_of(row).result), Path(self.item_of(first).result)
            place.parent.mkdir(parents=True, exist_ok=True)
            with whole(place) as beside, beside.open("wb") as file:
                file.write(source.read_bytes())
            small = base64.b64encode(first.thumbnail or b"").decode()
            self._hold([Outcome(row.number, first.output, first.confidence, 0.0, thumbnail=small)])
        self._flush()


def _chunks(items: Iterable[Item], most: int) -> Iterator[list[Item]]:
    chunk: list[Item] = []
    for item in items:
        chunk.append(item)
        if len(chunk) >= most:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
