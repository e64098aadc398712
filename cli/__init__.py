"""The command line: one file a command.

Start at :func:`main`. A command is a module of this folder with ``NAME``, ``HELP``, ``DESCRIPTION``,
``add_options(parser)`` and ``run(options)``, found by itself; its options come from settings
(``options.add_settings``).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pkgutil import iter_modules

_MODULES = [import_module(f".{module.name}", __name__) for module in iter_modules(__path__)]
COMMANDS = tuple(module for module in _MODULES if hasattr(module, "NAME"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    :returns: the exit status: 0, or 1 with one line on standard error.
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
        return options.run(options)
    except (ValueError, FileNotFoundError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
