"""``python -m texts write | check | accept``; ``make texts`` writes."""

from __future__ import annotations

import argparse
import sys

from . import locales
from .checks import CHECKS, outputs
from .schemas import ROOT, read


def write() -> int:
    """Write what is made from the schemas."""
    made, hindrances = outputs(read())
    for path, text in made.items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            locales.write(path, text)
            print(f"wrote {path.relative_to(ROOT)}")
    print("\n".join(hindrances), end="\n" if hindrances else "", file=sys.stderr)
    return 1 if hindrances else 0


def check() -> int:
    """Say what is stale, missing or behind."""
    nodes = read()
    complaints = [complaint for look in CHECKS for complaint in look(nodes)]
    print("\n".join(complaints) or "All texts are current.")
    return 1 if complaints else 0


def accept(language: str, keys: list[str] | None) -> int:
    """Record what a language's translations were made from."""
    for key in locales.accept(read(), language, keys):
        print(f"{language}: {key}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m texts", description="The words a user reads; see locales/README.md."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("write", help="write the English locale and the tables of help pages and README")
    commands.add_parser("check", help="say what is stale, missing, untranslated or behind its English")
    record = commands.add_parser("accept", help="record that translations are made from today's English")
    record.add_argument("language", choices=locales.TRANSLATED)
    record.add_argument(
        "keys",
        nargs="*",
        help="keys as check prints them; one that ends in a dot is all that begin so, a node's help page included",
    )
    record.add_argument("--all", action="store_true", help="all of them")
    options = parser.parse_args()
    try:
        if options.command == "accept":
            if bool(options.keys) == options.all:
                raise ValueError("Name keys, or give --all.")
            return accept(options.language, None if options.all else options.keys)
        return write() if options.command == "write" else check()
    except (ValueError, OSError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
