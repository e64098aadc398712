"""The command line: one file a command.

Start at :func:`main`. A command is a module of this folder with ``NAME``, ``HELP``, ``DESCRIPTION``,
``add_options(parser)`` and ``run(options)``, found by itself; its options come from settings
(``options.add_settings``).
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pkgutil import iter_modules

_MODULES = [import_module(f".{module.name}", __name__) for module in iter_modules(__path__)]
COMMANDS = tuple(module for module in _MODULES if hasattr(module, "NAME"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    :returns: the exit status: 0, or 1 with one line on standard error; 130 when the user stopped it.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(prog="comfyui_exemplar", description="Color pictures by example.")
    commands = parser.add_subparsers(required=True, metavar="command")
    for command in COMMANDS:
        own = commands.add_parser(command.NAME, help=command.HELP, description=command.DESCRIPTION)
        own.set_defaults(run=command.run)
        if command.NAME in arguments:  # the others' settings stay unread: they import torch
            command.add_options(own)
    options = parser.parse_args(arguments)
    try:
        with _warnings_shown():
            return options.run(options)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError, MemoryError) as error:
        return _failed(str(error) or type(error).__name__)
    except RuntimeError as error:
        from ..color.batches import ran_out

        if not ran_out(error):
            raise  # a mistake of ours, whose traceback is wanted
        return _failed("memory ran out; lower the resolution, or --batch if it is set.")


def _failed(said: str) -> int:
    print(f"error: {_one_line(said)}", file=sys.stderr)
    return 1


def _one_line(text: str) -> str:
    return " ".join(text.split())


class _Warnings(logging.Handler):
    """Warnings as one line each on standard error, above a progress bar that may stand there."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(f"{record.levelname.lower()}: {_one_line(record.getMessage())}", file=sys.stderr)


@contextmanager
def _warnings_shown() -> Iterator[None]:
    root, shown = logging.getLogger(), _Warnings(logging.WARNING)
    root.addHandler(shown)
    try:
        yield
    finally:
        root.removeHandler(shown)
