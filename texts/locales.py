"""The locales: English is made from the schemas, translations are compared with it.

A text has a key: ``ExemplarColorize.inputs.vae.tooltip`` in ``nodeDefs.json``, ``nodeCategories.color`` in
``main.json``, ``pages.ExemplarColorize`` for a help page without what is generated. ``translated_from.json`` keeps for
each key the fingerprint of the English that a translation was made from; where the English has changed since, the
translation is behind.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from comfyui_exemplar.files.output import whole

from . import pages, workflows
from .names import Tongue, names_of, options
from .schemas import ROOT, Nodes

LANGUAGES = ("en", "zh", "ja")
TRANSLATED = LANGUAGES[1:]
FILES = ("nodeDefs", "main")
TRANSLATED_FROM = "translated_from"
#: Parts of ``main.json`` that the scripts in ``web/js`` read, since ComfyUI itself translates none of them: the choices
#: of combos, and what the example workflows say.
OPTIONS, TITLES, NOTES = "exemplarOptions", "exemplarTitles", "exemplarNotes"


def path(language: str, file: str) -> Path:
    return ROOT / "locales" / language / f"{file}.json"


def load(language: str, file: str) -> dict[str, Any]:
    where = path(language, file)
    return json.loads(where.read_text(encoding="utf-8")) if where.is_file() else {}


def as_json(tree: Mapping[str, Any]) -> str:
    return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"


def save(language: str, file: str, tree: Mapping[str, Any]) -> None:
    write(path(language, file), as_json(tree))


def write(where: Path, text: str) -> None:
    """A text as a file, whole or not at all."""
    with whole(where) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")


def readable(identifier: str) -> str:
    """``match_chroma`` -> ``match chroma``, the label on the node."""
    return identifier.replace("_", " ")


def english(nodes: Nodes) -> dict[str, dict[str, Any]]:
    """The English locale by its files."""
    definitions = {
        node.id: {
            "display_name": node.name,
            "description": node.description,
            "inputs": {i.id: _entry(i.id, i.tooltip) for i in node.inputs},
            "outputs": {str(at): _entry(o.name, o.tooltip) for at, o in enumerate(node.outputs)},
        }
        for node in nodes.values()
    }
    words = {word for node in nodes.values() for word in node.category.split("/")}
    categories, choices = ({word: word for word in found} for found in (sorted(words), options(nodes)))
    notes, titles = workflows.texts()
    main = {"nodeCategories": categories, OPTIONS: choices, TITLES: titles, NOTES: notes}
    return {"nodeDefs": definitions, "main": main}


def _entry(name: str, tooltip: str) -> dict[str, str]:
    return {"name": readable(name), **({"tooltip": tooltip} if tooltip else {})}


def definitions(nodes: Nodes, language: str) -> dict[str, Any]:
    """A language's ``nodeDefs``; a translation's tooltips end by saying what auto is, where the setting has it.

    The sentence stands in ``pages.WORDS`` alone.
    """
    if language == "en":
        return english(nodes)["nodeDefs"]
    tree, sentence = load(language, "nodeDefs"), pages.WORDS[language].auto_sentence
    for node in nodes.values():
        entries = tree.get(node.id, {}).get("inputs", {})
        for i in node.inputs:
            text = entries.get(i.id, {}).get("tooltip")
            if text:
                bare = text.removesuffix(sentence)
                entries[i.id]["tooltip"] = bare + sentence if i.auto else bare
    return tree


def tongue(nodes: Nodes, language: str) -> Tongue:
    """What a language calls everything."""
    tree = definitions(nodes, language)
    translated = nodes.values() if language in TRANSLATED else ()
    names = {node.id: names_of(node, tree.get(node.id, {})) for node in translated}
    return Tongue(tree, names, load(language, "main").get(OPTIONS, {}) if translated else {})


def flat(tree: Mapping[str, Any], start: str = "") -> dict[str, str]:
    """Leaves by their keys."""
    leaves: dict[str, str] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{start}{key}.") if isinstance(value, dict) else {start + key: value}
    return leaves


def english_texts(nodes: Nodes) -> dict[str, str]:
    """All that is translated, by its keys."""
    texts = {key: text for tree in english(nodes).values() for key, text in flat(tree).items()}
    return texts | page_texts(nodes, "en")


def translated_texts(nodes: Nodes, language: str) -> dict[str, str]:
    """What a language has, by the same keys."""
    texts = {key: text for file in FILES for key, text in flat(load(language, file)).items()}
    return texts | page_texts(nodes, language)


def page_texts(nodes: Nodes, language: str) -> dict[str, str]:
    """Help pages without what is made from the schemas."""
    places = {node: pages.page_path(node, language) for node in nodes}
    return {
        f"pages.{node}": pages.without_blocks(place.read_text(encoding="utf-8"))
        for node, place in places.items()
        if place.is_file()
    }


def fingerprint(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]


def behind(nodes: Nodes, language: str) -> list[str]:
    """Keys whose translation was made from another English text than today's."""
    source, made_from = english_texts(nodes), load(language, TRANSLATED_FROM)
    known = source.keys() & translated_texts(nodes, language).keys()
    return [key for key in source if key in known and made_from.get(key) != fingerprint(source[key])]


def accept(nodes: Nodes, language: str, keys: Iterable[str] | None = None) -> list[str]:
    """Record that translations are made from today's English; returns the keys that this changed.

    :param keys: which ones, or beginnings of keys that end in a dot, a node's help page included; None for all.
    :raises ValueError: there is no such text in this language.
    """
    source, found = english_texts(nodes), translated_texts(nodes, language)
    known = [key for key in source if key in found]
    chosen = known if keys is None else _matching(known, keys)
    made_from = load(language, TRANSLATED_FROM)
    now = {key: fingerprint(source[key]) if key in chosen else made_from.get(key) for key in known}
    save(language, TRANSLATED_FROM, {key: value for key, value in now.items() if value is not None})
    return [key for key in known if now[key] != made_from.get(key)]


def _matching(known: list[str], keys: Iterable[str]) -> set[str]:
    chosen: set[str] = set()
    for wanted in keys:
        page = f"pages.{wanted[:-1]}"
        match = {k for k in known if k == wanted or (wanted.endswith(".") and (k.startswith(wanted) or k == page))}
        if not match:
            raise ValueError(
                f"There is no text '{wanted}'; keys look like {known[0]}, or ExemplarColorize. for a node."
            )
        chosen |= match
    return chosen
