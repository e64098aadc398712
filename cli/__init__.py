"""The command line: one file a command.

Start at :func:`main`. A command is a module of this folder with ``NAME``, ``HELP``, ``DESCRIPTION``,
``add_options(parser)`` and ``run(options)``, found by itself; its options come from settings
(``options.add_settings``); :mod:`.looking` is what commands that ask color memories share. What is said when one fails
is in :mod:`.failures`, where it is said in :mod:`.terminal`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import NoReturn

from . import failures, terminal

_MODULES = [import_module(f".{module.name}", __name__) for module in iter_modules(__path__)]
COMMANDS = tuple(module for module in _MODULES if hasattr(module, "NAME"))


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line."""

    def error(self, message: str) -> NoReturn:
        """Leave the program, as argparse asks for it."""
        line = failures.one_line(f"error: {message.rstrip('.')}; usage: {self.prog} ..., as {self.prog} --help says.")
        self.exit(failures.USAGE, f"{line}\n")


def parser(names: Sequence[str] | None = None) -> Parser:
    """The parser of all commands.

    :param names: of the commands whose options are wanted, all by default; reading settings takes a while.
    """
    made = Parser(prog="comfyui_exemplar", description="Color pictures by example.", epilog=failures.CODES)
    _add_traceback(made, False)
    commands = made.add_subparsers(required=True, metavar="command", parser_class=Parser)
    for command in COMMANDS:
        own = commands.add_parser(
            command.NAME, help=command.HELP, description=command.DESCRIPTION, epilog=failures.CODES
        )
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
    with terminal.streams(), terminal.Interrupt() as interrupt:
        try:
            options = parser(arguments).parse_args(arguments)
            with terminal.warnings_shown():
                return options.run(options)
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  # whatever it is, it is one line
            if "--traceback" in arguments:
                import traceback

                traceback.print_exception(error)
            code, line = failures.told(KeyboardInterrupt() if interrupt.came else error)
            print(line, file=sys.stderr, flush=True)
            return code
