"""JSON from files that anyone may have made: how deep, how long and how many are looked at before it is read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

#: What nests, and what begins and ends a text. An escaped character is none of these.
_MARKS = re.compile(r'\\.|["\[\]{}]', re.DOTALL)
#: Digits of a whole number, of which 64 bits have 19: Python takes its time over longer ones.
_DIGITS = 400
#: Levels of the deepest header or configuration that there is, with some to spare.
DEPTH = 12
#: Bytes of a configuration, or of an index of shards.
_LONGEST = 16_000_000
#: What to do about a wrong file of a folder.
AGAIN = "Download the folder again."


def parse(content: str | bytes, *, depth: int = DEPTH) -> Any:
    """What JSON says.

    :param depth: how many levels lists and objects may be nested.
    :raises ValueError: it is none, is nested deeper, has a key twice or a number of hundreds of digits. The message is
        a phrase, such as "is nested deeper than 12 levels", for whoever knows the file to name it.
    """
    if isinstance(content, bytes):
        try:
            content = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError("is no UTF-8 text") from error
    if _levels(content, depth) > depth:
        raise ValueError(f"is nested deeper than {depth} levels")
    try:
        return json.loads(content, object_pairs_hook=_object, parse_int=_whole)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON (from character {error.pos + 1} on)") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a folder, such as a configuration.

    :raises ValueError: the file is missing or holds anything else.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing: give a complete diffusers folder (unet, vae, text_encoder, scheduler).")
    if path.stat().st_size > _LONGEST:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, more than any configuration: download it again.")
    try:
        content = parse(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} {error}. {AGAIN}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected an object. {AGAIN}")
    return content


def _levels(text: str, most: int) -> int:
    """How deep JSON is nested; counting ends beyond ``most``."""
    level = deepest = 0
    quoted = False
    for mark in _MARKS.finditer(text):
        said = mark[0]
        if said == '"':
            quoted = not quoted
        elif not quoted and said in "[{":
            level += 1
            deepest = max(deepest, level)
            if deepest > most:
                break
        elif not quoted and said in "]}":
            level -= 1
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"has the key {short(twice)} twice")
    return made


def _whole(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError("has a number of more digits than any computer needs")
    return int(digits)


def short(name: object, longest: int = 160) -> str:
    """Something from a file for a message: on one line, and not too long."""
    text = name if isinstance(name, str) and name.isprintable() else ascii(name)
    return f"`{text if len(text) <= longest else text[: longest - 3] + '...'}`"
