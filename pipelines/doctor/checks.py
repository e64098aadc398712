"""Checks as values, and how they are gone through: one that fails is reported, and the rest go on."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ...color.batches import freed, ran_out
from ...color.devices import empty_cache, forget_peak, peak_memory, wait_for
from ...settings import Settings, setting

#: good: within the bound. look: something to look at, which may be right. failed: the pack or the machine is at fault.
Verdict = Literal["good", "look", "failed", "not run"]

#: What stands where nobody has measured.
UNKNOWN = "unknown, reports welcome"

#: A path of several parts; its last part is what is told.
_PART = r"[^\\/:*?\"'<>|,;\s]"
_PATH = re.compile(rf"(?<![\w.])(?:(?:[A-Za-z]:|~)[\\/](?:{_PART}+[\\/])*|[\\/](?:{_PART}+[\\/])+)({_PART}*)")

_MEMORY = "memory ran out; close what else needs it, or look with quick on."


@dataclass(frozen=True)
class DoctorSettings(Settings):
    """How much is looked at."""

    quick: bool = setting(
        False,
        "Off looks at your checkpoint at the size that it was made for. On looks at 256 x 256 pixels with few steps: "
        "seconds in place of minutes on a CPU, and its colors are no measure of the model.",
    )
    embedded_files: bool = setting(
        True,
        "Also runs every system on the small files that come with the pack, and compares with recorded numbers: some "
        "20 seconds on a CPU. Off looks at the machine and at what is connected alone.",
    )


class NotRunError(Exception):
    """A check that can't be made here; says why."""


@dataclass(frozen=True)
class Finding:
    """What a check found.

    :param found: in a few words, numbers with their units.
    :param note: a sentence on what it may mean and what to do; "" where all is well.
    :param numbers: the same for programs.
    :param pictures: captions and pictures, (1, H, W, 3) in 0..1, for a person to judge.
    """

    found: str
    verdict: Verdict = "good"
    note: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    pictures: tuple[tuple[str, Tensor], ...] = ()


@dataclass(frozen=True)
class Check:
    """One thing to look at.

    :param group: what it belongs to: ``machine``, ``embedded``, ``checkpoint`` ...
    :param name: a few words, unique in its group.
    :param measures: a sentence on what is measured.
    :param expected: the bound, or :data:`UNKNOWN`.
    :param why: where the bound comes from.
    :param run: looks; raises :class:`NotRunError` where it can't be made, anything else where it fails.
    """

    group: str
    name: str
    measures: str
    expected: str
    why: str
    run: Callable[[], Finding]


@dataclass(frozen=True)
class Result:
    """A check that was gone through.

    :param seconds: it took, until the device had done all.
    :param peak: bytes that were held at most while it ran, on the device, or of the process on a CPU; None where nobody
        counts.
    """

    check: Check
    finding: Finding
    seconds: float
    peak: int | None


@dataclass(frozen=True)
class Meter:
    """The clock, and whoever counts memory.

    :param device: where the work is done.
    """

    device: torch.device

    @property
    def counts(self) -> str:
        """What the peak is of."""
        return "process" if self.device.type == "cpu" else "device"

    def begin(self) -> float:
        """Count the peak anew; the time."""
        wait_for(self.device)
        empty_cache(self.device)
        forget_peak(self.device)
        if self.device.type == "cpu":
            _forget_process_peak()
        return time.perf_counter()

    def end(self, begun: float) -> tuple[float, int | None]:
        """Seconds since the beginning, and the peak in bytes."""
        wait_for(self.device)
        seconds = time.perf_counter() - begun
        return seconds, _process_peak() if self.device.type == "cpu" else peak_memory(self.device)


def _forget_process_peak() -> None:
    """Linux counts the peak of a process anew when it is told so."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _process_peak() -> int | None:
    """Bytes in main memory at most since the last :func:`_forget_process_peak`; None beside Linux."""
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text("utf-8"), re.MULTILINE)
    except OSError:
        return None
    return None if found is None else int(found[1]) * 1024


def examine(
    checks: Sequence[Check],
    meter: Meter,
    *,
    stops: Callable[[BaseException], bool] = lambda _: False,
    free: Callable[[Exception], bool] = freed,
    on_check: Callable[[Check], None] = lambda _: None,
    paths: Sequence[Path] = (),
) -> Iterator[Result]:
    """Go through checks one after another; each result as soon as it is there.

    :param stops: whether an error says that the user wants to stop: it goes on upward.
    :param free: frees what a check held that memory ran out in.
    :param on_check: called before each.
    :param paths: of the files that are looked at, which messages may quote: of these the name is told.
    """
    for check in checks:
        on_check(check)
        begun = meter.begin()
        try:
            finding = check.run()
        except NotRunError as reason:
            finding = Finding("", "not run", plain(str(reason), paths))
        except Exception as error:  # whatever it is, it is a finding, and the others are of use
            if stops(error):
                raise
            finding = Finding("", "failed", said(error, paths))
            free(error)
        seconds, peak = meter.end(begun) if finding.verdict != "not run" else (0.0, None)
        yield Result(check, finding, seconds, peak)


def said(error: BaseException, paths: Sequence[Path] = ()) -> str:
    """What an error says, on one line and without the places of files."""
    if ran_out(error):
        return _MEMORY
    if isinstance(error, OSError) and error.strerror:
        name = "" if error.filename is None else f"{Path(str(error.filename)).name}: "
        return plain(f"{name}{error.strerror}.", paths)
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"The Python package {error.name} is not there; install it, as the README says."
    if isinstance(error, (ValueError, LookupError, OSError, ImportError)):
        return plain(str(error) or type(error).__name__, paths)
    return plain(f"unexpected {type(error).__name__}: {str(error) or 'no more is known'}", paths)


def plain(text: str, paths: Sequence[Path] = (), longest: int = 600) -> str:
    """A text on one line, without the folders of the files that it names: those say who somebody is.

    :param paths: that it may quote as they are; other places are told by their form.
    """
    line = " ".join(text.split())
    forms = {str(form) for path in paths for form in (path, path.absolute(), path.resolve())}
    for form in sorted(forms, key=len, reverse=True):
        line = line.replace(" ".join(form.split()), Path(form).name)
    home = os.path.expanduser("~")  # unlike Path.home(), it raises nothing where nobody has one
    if len(home) > 1:  # a container's may be "/"
        line = line.replace(home, "~")
    line = _PATH.sub(lambda found: found[1] or "a folder", line)
    return line if len(line) <= longest else f"{line[:longest]} ..."


def share_verdict(value: float, good: float, look: float) -> Verdict:
    """The verdict on a number that should be small.

    :param good: up to here it is good; up to ``look`` to be looked at; beyond, or no number, failed.
    """
    if value <= good:
        return "good"
    return "look" if value <= look else "failed"
