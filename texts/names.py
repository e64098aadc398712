"""What a language calls sockets, widgets and choices, and these names on the help pages."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .schemas import Node, Nodes

#: Id of a socket or widget -> its translated names; two where an input and an output share the id.
Names = Mapping[str, list[str]]

#: A name behind an id, which needs no blank behind it; it may have a bracket of its own.
BRACKET = r"（(?:[^（）]|（[^（）]*）)*）"


@dataclass(frozen=True)
class Tongue:
    """What a language calls everything.

    :param definitions: its ``nodeDefs.json``.
    :param names: node -> names; none in English, where ids are words.
    :param options: choice of a combo -> its translation.
    """

    definitions: Mapping[str, Any]
    names: Mapping[str, Names]
    options: Mapping[str, str]


def options(nodes: Nodes) -> list[str]:
    """All choices that are words, once each."""
    found = {option for node in nodes.values() for i in node.inputs for option in i.options}
    return sorted(option for option in found if any(letter.isalpha() for letter in option))


def names_of(node: Node, locale: Mapping[str, Any]) -> Names:
    """Id -> what the language calls it, where that is another word."""
    inputs, outputs = locale.get("inputs", {}), locale.get("outputs", {})
    pairs = [(i.id, inputs.get(i.id, {})) for i in node.inputs]
    pairs += [(o.name, outputs.get(str(at), {})) for at, o in enumerate(node.outputs)]
    found: dict[str, list[str]] = {}
    for key, entry in pairs:
        name = entry.get("name", "")
        if re.sub(r"\W|_", "", name).casefold() not in ("", key.replace("_", "").casefold()):
            found.setdefault(key, []).append(name)
    return found


def named(text: str, form: str, own: Names, everyone: Iterable[Names]) -> str:
    """A page whose ids have their names behind them, since the node shows the name alone.

    They stand where an id first stands in the recipe, and in each section up to the inputs.

    :param form: how a name stands behind its id.
    :param own: of the page's node; an id that it does not have takes the name that most nodes give it.
    :raises ValueError: behind an id stands something in brackets that is none of its names.
    """
    others: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for names in everyone:
        for key, found in names.items():
            others[key].update(found)
    start, inputs, end = text.partition("<!-- inputs -->")

    def section(part: str) -> str:
        seen: set[str] = set()

        def name(match: re.Match[str]) -> str:
            key, said = match[1], match[2]
            known = own.get(key) or [name for name, _ in others[key].most_common()]
            if key in seen or not known:
                return match[0]
            seen.add(key)
            if said and said not in (form.format(name) for name in [*known, *others[key]]):
                raise ValueError(
                    f"behind `{key}` stands {said}, its name is {form.format(known[0])}: a bracket there holds the name"
                )
            return f"`{key}`{said or form.format(known[0])}"

        return re.sub(rf"`([a-z][a-z0-9_]*)`({BRACKET})?( (?=[^\x00-\x7f]))?", name, part)

    return "\n## ".join(section(part) for part in start.split("\n## ")) + inputs + end
