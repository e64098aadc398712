"""The terminal that a command runs in: its two streams, warnings, and the user's wish to stop."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO, cast

from .failures import one_line


def say(what: Path | str) -> None:
    """A line on standard output, above a progress bar that may stand there.

    :raises OSError: whoever read it is gone, or there is no room for it.
    """
    from tqdm import tqdm

    try:
        tqdm.write(str(what), file=sys.stdout)
        sys.stdout.flush()
    except OSError as error:
        raise OSError(f"standard output cannot be written to ({error.strerror})") from error


def note(what: str) -> None:
    """A line on standard error, above a progress bar that may stand there; nothing fails when nobody sees it."""
    from tqdm import tqdm

    tqdm.write(f"note: {one_line(what)}", file=sys.stderr)


class Interrupt:
    """The user's wish to stop, remembered: imports turn what it raises within them into errors of their own."""

    came = False

    def __enter__(self) -> Interrupt:
        self._before = None
        with suppress(ValueError):  # not in the main thread, where no wish arrives
            self._before = signal.signal(signal.SIGINT, self._stop)
        return self

    def _stop(self, *_: object) -> NoReturn:
        self.came = True
        raise KeyboardInterrupt

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)


class _Forgiving:
    """Standard error that can always be written to: no work ends because nobody sees its progress."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or don't."""
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is held back, or don't."""
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def streams() -> Iterator[None]:
    """Standard output and error that are there, and take names that their encoding does not have."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started the program
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(getattr(sys, name), "reconfigure"):
            with suppress(OSError):  # written to already, and no longer what it was
                getattr(sys, name).reconfigure(errors="backslashreplace")
    shown, sys.stderr = sys.stderr, cast("TextIO", _Forgiving(sys.stderr))
    try:
        yield
    finally:
        sys.stderr = shown
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):  # dropped here, not by Python at its end with words of its own
                with suppress(OSError, ValueError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Warnings(logging.Handler):
    """Warnings as one line each on standard error, above a progress bar that may stand there."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(f"{record.levelname.lower()}: {one_line(record.getMessage())}", file=sys.stderr)


@contextmanager
def warnings_shown() -> Iterator[None]:
    """The pack's own warnings; libraries say theirs themselves."""
    ours, shown = logging.getLogger(__name__.rpartition(".cli.")[0]), _Warnings(logging.WARNING)
    ours.addHandler(shown)
    try:
        yield
    finally:
        ours.removeHandler(shown)
