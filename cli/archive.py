"""A whole folder tree through one method, on this machine or many."""

from __future__ import annotations

import argparse
import functools
import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from . import archive_methods as methods
from . import names, sources
from . import options as common
from .terminal import note, say

if TYPE_CHECKING:
    from ..files.archive.folders import FolderFiles
    from ..files.archive.journal import Found, Journal, Row
    from ..files.archive.receipts import Outcome
    from ..pipelines.archive import Item, Pool, Writing

NAME = "archive"
HELP = "color a folder tree of thousands of pictures, resumable, by several processes or a cluster"
DESCRIPTION = (
    "Colors all pictures of a folder tree or a list by one method. A journal knows what is done: after an "
    "interruption, or when pictures were added, the same command does only what is not done yet. A report shows failed "
    "files and the least sure results first."
)

#: Formats that results are written in, by their suffix without the dot.
FORMATS = ("png", "tif", "jpg", "webp", "exr")


def add_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("input and output")
    group.add_argument(
        "input",
        type=common.path,
        metavar="INPUT",
        help="folder of pictures, with those in it, or a text file with a picture a line. Beside pictures "
        "exemplar.json may say what holds for their folder: reference, memory, prompt, negative, regions",
    )
    group.add_argument(
        "--output", type=common.path, metavar="FOLDER", required=True, help="folder of the results (required)"
    )
    group.add_argument(
        "--format", choices=FORMATS, default="png", help="of the results; exr wants --bits 16 (default: png)"
    )
    group.add_argument("--bits", type=int, choices=(8, 16), default=8, help="of a sample in the results (default: 8)")
    group.add_argument(
        "--names",
        choices=("stem", "whole"),
        default="stem",
        help="of the results: stem makes a.png of a.tif, whole a.tif.png, for folders with both a.tif and a.jpg "
        "(default: stem)",
    )
    group.add_argument(
        "--retry", action="store_true", help="try files anew that earlier runs left as failed (default: they are left)"
    )
    group = command.add_argument_group("method")
    group.add_argument(
        "--method",
        choices=tuple(methods.COMMANDS),
        default="auto",
        help="auto colors without a reference, memory by references (colorize --method memory), describe by words "
        "(default: auto)",
    )
    group.add_argument(
        "--with",
        dest="arguments",
        default="",
        metavar="TEXT",
        help="options of the method's own command (auto, colorize, describe) as one text, such as '--model "
        "m.safetensors --device cuda' (default: none)",
    )
    group = command.add_argument_group("workers")
    group.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes with a model each; with --address on the cluster (default: 1, this process; on a cluster one a "
        "core, or one a GPU where --with names a GPU)",
    )
    group.add_argument(
        "--address",
        metavar="ADDRESS",
        help="Ray cluster to work on: auto, HOST:PORT, ray://HOST:PORT, or local for a new one on this machine; all "
        "its machines need the same files under the same names (default: no cluster)",
    )


def run(options: argparse.Namespace) -> int:
    from ..files.archive.journal import Journal

    recipe = methods.recipe(options.method, options.arguments)
    _ = recipe.options  # what is not understood is refused before anything is read
    if options.workers is not None and not 1 <= options.workers <= 4096:
        raise ValueError(f"--workers is {options.workers}; it must be from 1 to 4096.")
    if options.address is not None and not options.address.strip():
        raise ValueError("--address is empty; name a cluster, or leave it out.")
    place = _Place.checked(options)
    journal = Journal(place.output, {**recipe.identity(), "format": options.format, "bits": str(options.bits)})
    journal.check()
    place.try_output()
    journal.open()
    try:
        return Archive(options, place, journal, functools.partial(methods.build, recipe)).run()
    finally:
        journal.close()


@dataclass(frozen=True)
class _Place:
    """Where pictures are and where results go.

    :param listed: a list of pictures in place of all in the root.
    """

    root: Path
    output: Path
    listed: Path | None
    suffix: str
    whole_names: bool
    bits: int

    @classmethod
    def checked(cls, options: argparse.Namespace) -> _Place:
        """Whether they are there, and are two.

        :raises FileNotFoundError: no such input.
        :raises ValueError: no folder and no list, or the output is the input.
        """
        from ..files.pictures import READ, check_format

        path, output = options.input, options.output
        names.check_read("INPUT", path, folders=True)
        if path.is_file() and path.suffix.lower() in READ:
            raise ValueError(f"{path} is a picture; an archive is a folder of them, or a text file with their names.")
        root = path if path.is_dir() else path.parent
        if output.exists() and not output.is_dir():
            raise ValueError(f"--output {output} is a file; name a folder.")
        if output.exists() and output.samefile(root):
            raise ValueError(f"--output {output} is the folder of the pictures; name another one.")
        check_format(f".{options.format}", options.bits)
        listed = None if path.is_dir() else path
        return cls(root, output, listed, f".{options.format}", options.names == "whole", options.bits)

    def try_output(self) -> None:
        """Make the folder of the results, and see whether it can be written to."""
        from ..files.archive.report import NAME, check_report
        from ..files.output import try_folder

        try_folder(self.output, "journal.sqlite")
        check_report(self.output / NAME)

    def pictures(self) -> Iterator[str]:
        """Names of the pictures below the root."""
        from ..files.archive.finding import pictures_listed, pictures_of

        if self.listed is not None:
            return pictures_listed(self.listed)
        return pictures_of(self.root, self.output, note)

    def result_of(self, name: str) -> str:
        """Name of a result below the output."""
        path = PurePath(name)
        return (
            path.with_name(path.name + self.suffix) if self.whole_names else path.with_suffix(self.suffix)
        ).as_posix()


class Archive:
    """A run over an archive.

    :param build: makes a worker's method.
    """

    def __init__(self, options: argparse.Namespace, place: _Place, journal: Journal, build: Callable[[], Any]) -> None:
        from ..files.archive.folders import FolderFiles

        self.options, self.place, self.journal, self.build = options, place, journal, build
        self.folders: FolderFiles = FolderFiles(place.root, _split)
        self._folds = names.folds_case(place.output)

    def run(self) -> int:
        """Look, work, report.

        :raises ValueError: files failed, or something stands against the whole work.
        """
        from ..files.archive.journal import TRIES
        from ..pipelines.archive_pools import wait_for_workers

        self._look()
        wait_for_workers(self.journal.folder)
        self.journal.settle(retry=self.options.retry)
        before = self.journal.counts()
        waiting = sum(before.get(state, 0) for state in ("waiting", "same"))
        note(f"{_count(sum(before.values()), 'picture')}, {before.get('done', 0)} done before.")
        if copies := self.journal.copies():
            note(f"{copies} of them have the same content as another one, whose result they get.")
        is_tried = any(True for _ in self.journal.rows("failed", tries=TRIES - 1))
        try:
            if waiting or is_tried:
                self._work(waiting)
        finally:
            report = self._report()
        say(report)
        failed = self.journal.counts().get("failed", 0)
        if failed:
            raise ValueError(f"{_count(failed, 'picture')} failed and stay without result; {report} says why.")
        return 0

    def _look(self) -> None:
        """Take in all pictures that are there.

        :raises ValueError: none is, a folder's file is wrong, or names of results collide.
        """
        from tqdm import tqdm

        found, unusual, known = 0, set(), methods.TAKES[self.options.method]
        with tqdm(desc="looking", unit="picture") as bar:
            chunk: list[Found] = []
            for name in self.place.pictures():
                settings = self.folders.of(name)
                unusual |= settings.said.difference(known)
                if os.path.realpath(self.place.root / name) in self.folders.named:
                    continue  # it gives the colors
                chunk.append(self._found(name, settings.digest))
                found += 1
                bar.update()
                if len(chunk) >= 256:
                    self.journal.look(chunk)
                    chunk = []
            self.journal.look(chunk)
        if not found:
            raise ValueError(f"{self.options.input} has no pictures; name a folder of pictures, or a list of them.")
        for key in sorted(unusual):
            note(f"{key} of exemplar.json is not used by --method {self.options.method}.")
        count, listed = self.journal.collisions()
        if count:
            told = "; ".join(" and ".join(each[:3]) for each in listed)
            raise ValueError(
                f"{_count(count, 'result')} would have one name for several pictures: {told}. Use --names whole, or "
                "rename them."
            )

    def _found(self, name: str, digest: str) -> Found:
        from ..files.archive.finding import digest_of
        from ..files.archive.journal import Found

        path, place = self.place.root / name, self.place.result_of(name)
        key = unicodedata.normalize("NFC", place).casefold() if self._folds else place
        try:
            known = os.stat(path)
            size, changed = known.st_size, known.st_mtime_ns
            before = self.journal.known(name)
            same = before is not None and before[:2] == (size, changed)
            content = before[2] if before is not None and same else digest_of(path)
        except OSError:  # its turn tells why
            size, changed, content = 0, 0, ""
        return Found(name, place, key, size, changed, content, digest)

    def _item(self, row: Row) -> Item:
        from ..pipelines.archive import Item

        source, result = self.place.root / row.path, self.place.output / row.place
        folder = self.folders.of(row.path)
        return Item(row.number, str(source.absolute()), str(result.absolute()), folder, row.content)

    def _work(self, waiting: int) -> None:
        from tqdm import tqdm

        from ..files.archive.receipts import remove_receipts
        from ..pipelines.archive import Run, Writing

        writing = Writing(str(self.journal.folder.absolute()), self.options.bits)
        pool = self._pool(writing)
        failed = 0
        with tqdm(desc=self.options.method, total=waiting, unit="picture") as bar:

            def on_outcomes(outcomes: Sequence[Outcome]) -> None:
                nonlocal failed
                failed += sum(bool(outcome.error) for outcome in outcomes)
                bar.total = max(bar.total, bar.n + len(outcomes))
                bar.update(len(outcomes))
                if failed:
                    bar.set_postfix_str(f"{failed} failed")

            try:
                Run(self.journal, pool, self._item, on_outcomes).work()
            except KeyboardInterrupt:
                note("what is done stays done; the same command goes on with the rest.")
                raise
            finally:
                pool.close()
        remove_receipts(self.journal.folder)

    def _pool(self, writing: Writing) -> Pool:
        from ..color.devices import KINDS
        from ..pipelines.archive_cluster import Cluster
        from ..pipelines.archive_pools import InProcess, Processes

        workers = self.options.workers
        if self.options.address is not None:
            named = (word.rpartition("=")[2].partition(":")[0] for word in self.options.arguments)
            on_gpu = any(word in KINDS for word in named)
            return Cluster(self.options.address, workers or 0, self.build, writing, gpus=on_gpu)
        if workers is None or workers == 1:
            return InProcess(self.build, writing)
        return Processes(workers, self.build, writing)

    def _report(self) -> Path:
        from ..files.archive.report import NAME, write_report

        path = self.place.output / NAME
        facts = {"pictures": str(self.place.root), "results": str(self.place.output), **self.journal.made}
        write_report(path, self.journal, self.place.root, self.place.output, facts)
        return path


def _split(text: str) -> tuple[Path, Path | None, str]:
    try:
        source = sources.reference(text)
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"reference of exemplar.json: {error}") from None
    return source.path, source.mask, "" if source.weight is None else f"*{source.weight:g}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
