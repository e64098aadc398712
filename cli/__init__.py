"""The command line: one file a command.

Start at :func:`main`. A command is a module of this folder with ``NAME``, ``HELP``, ``DESCRIPTION``,
``add_options(parser)`` and ``run(options)``, found by itself; its options come from settings
(``options.add_settings``). What is said when one fails is in :mod:`.failures`.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, NoReturn, TextIO, cast

_MODULES = [import_module(f".{module.name}", __name__) for module in iter_modules(__path__)]
COMMANDS = tuple(module for module in _MODULES if hasattr(module, "NAME"))


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line."""

    def error(self, message: str) -> NoReturn:
        """Leave the program, as argparse asks for it."""
        from . import failures

        line = failures.one_line(f"error: {message.rstrip('.')}; usage: {self.prog} ..., as {self.prog} --help says.")
        self.exit(failures.USAGE, f"{line}\n")


def parser(names: Sequence[str] | None = None) -> Parser:
    """The parser of all commands.

    :param names: of the commands whose options are wanted, all by default; reading settings takes a while.
    """
    from .failures import CODES

    made = Parser(prog="comfyui_exemplar", description="Color pictures by example.", epilog=CODES)
    _add_traceback(made, False)
    commands = made.add_subparsers(required=True, metavar="command", parser_class=Parser)
    for command in COMMANDS:
        own = commands.add_parser(command.NAME, help=command.HELP, description=command.DESCRIPTION, epilog=CODES)
        own.set_defaults(run=command.run)
        if names is None or command.NAME in names:
            command.add_options(own)
            _add_traceback(own, argparse.SUPPRESS)  # said before the command, it stays said
    return made


def _add_traceback(parser: argparse.ArgumentParser, default: bool | str) -> None:
    parser.add_argument(
        "--traceback",
        action="store_true",
        default=default,
        help="when it fails, show where in the program (default: one line only)",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    :returns: the return code, see :mod:`.failures`; what is not 0 comes with one line on standard error.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    with _streams(), _Interrupt() as interrupt:
        try:
            options = parser(arguments).parse_args(arguments)
            with _warnings_shown():
                return options.run(options)
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  # whatever it is, it is one line
            from .failures import told

            if "--traceback" in arguments:
                import traceback

                traceback.print_exception(error)
            code, line = told(KeyboardInterrupt() if interrupt.came else error)
            print(line, file=sys.stderr, flush=True)
            return code


class _Interrupt:
    """The user's wish to stop, remembered: imports turn what it raises within them into errors of their own."""

    came = False

    def __enter__(self) -> _Interrupt:
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
def _streams() -> Iterator[None]:
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

        from .failures import one_line

        tqdm.write(f"{record.levelname.lower()}: {one_line(record.getMessage())}", file=sys.stderr)


@contextmanager
def _warnings_shown() -> Iterator[None]:
    """The pack's own warnings; libraries say theirs themselves."""
    ours, shown = logging.getLogger(__name__.rpartition(".")[0]), _Warnings(logging.WARNING)
    ours.addHandler(shown)
    try:
        yield
    finally:
        ours.removeHandler(shown)
