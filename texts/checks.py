"""What is stale or missing in the texts; every check returns its complaints, none when all is well."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from . import crossings_page, locales, node_tables, pages
from .locales import TRANSLATED, english_texts, flat, translated_texts
from .names import BRACKET
from .schemas import ROOT, Node, Nodes

#: Visible widgets that a user can take in at once; everything beyond is advanced.
MOST_VISIBLE = 5
#: The browser's translator reads these as placeholders, links and plurals.
UNSHOWABLE = set("{}@|$")
#: The heading of the last part of a help page.
SOURCE = {"en": "## Source", "zh": "## 来源", "ja": "## 出典"}
#: Pages of no node that are written by hand, in each language.
WRITTEN = ("attention-kernels",)
#: Folders of the pack whose messages a help page may quote.
SPEAKING = ("attention", "color", "demo", "diffusion", "files", "hosts", "memory", "networks", "nodes", "pipelines")

Complaints = list[str]


def schema(nodes: Nodes) -> Complaints:
    """Every node has its texts, and few enough widgets at first."""
    return [complaint for node in nodes.values() for complaint in _schema(node)]


def _schema(node: Node) -> Complaints:
    found = []
    if not node.id.startswith("Exemplar") or node.category.split("/")[0] != "exemplar":
        found.append(f"{node.id}: ids begin with Exemplar, categories with exemplar")
    if not node.name or not node.description.endswith("."):
        found.append(f"{node.id}: it needs a display name, and a description that ends in a full stop")
    if len(set(node.aliases)) < 2:
        found.append(f"{node.id}: it needs at least two search aliases")
    found += [f"{node.id}.{i.id}: it needs a tooltip" for i in node.inputs if not i.tooltip]
    found += [
        f"{node.id}: output {at} needs a name and a tooltip"
        for at, o in enumerate(node.outputs)
        if not (o.name and o.tooltip)
    ]
    sentence = pages.WORDS["en"].auto_sentence  # alike everywhere, so that pages can say it once
    found += [
        f"{node.id}.{i.id}: its tooltip {'does not end' if i.auto else 'ends'} with '{sentence}'"
        for i in node.inputs
        if i.auto != i.tooltip.endswith(sentence)
    ]
    visible = [i.id for i in node.inputs if i.widget and not i.advanced]
    if len(visible) > MOST_VISIBLE:
        found.append(f"{node.id} shows {', '.join(visible)}: set the ones that can wait to advanced")
    return found


def generated(nodes: Nodes) -> Complaints:
    """What `make texts` writes is what is there, and nothing keeps it from being made."""
    made, hindrances = outputs(nodes)
    stale = "is not what the schemas say: run `make texts`"
    return hindrances + [f"{path.relative_to(ROOT)} {stale}" for path, text in made.items() if _read(path) != text]


def outputs(nodes: Nodes) -> tuple[dict[Path, str], Complaints]:
    """Every file that is made from the schemas with its text, and which could not be made: no page, or no markers."""
    made = {locales.path("en", "main"): locales.as_json(locales.english(nodes)["main"])}
    hindrances = []
    for language in locales.LANGUAGES:
        tongue = locales.tongue(nodes, language)
        made[locales.path(language, "nodeDefs")] = locales.as_json(tongue.definitions)
        made[crossings_page.page_path(language)] = crossings_page.page(language, tongue.definitions)
        for node in nodes.values():
            path = pages.page_path(node.id, language)
            if not path.is_file():
                hindrances.append(f"{node.id} has no help page in '{language}': write {path.relative_to(ROOT)}")
                continue
            try:
                made[path] = pages.page(node, language, _read(path), tongue)
            except ValueError as error:
                hindrances.append(f"{path.relative_to(ROOT)}: {error}")
    for path, write in ((node_tables.README, node_tables.in_readme), (node_tables.LIST, node_tables.in_list)):
        try:
            made[path] = write(nodes, _read(path))
        except ValueError as error:
            hindrances.append(f"{path.relative_to(ROOT)}: {error}")
    return made, hindrances


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def translations(nodes: Nodes) -> Complaints:
    """Translations have every text and no other, are translated, and are not behind their English."""
    return [f"{language}: {complaint}" for language in TRANSLATED for complaint in _translation(nodes, language)]


def _translation(nodes: Nodes, language: str) -> Complaints:
    english, found = english_texts(nodes), translated_texts(nodes, language)
    both = [key for key in english if key in found]
    accepted = locales.load(language, locales.TRANSLATED_FROM)
    # what `generated` says of a missing page names its path
    complaints = [f"missing {key}" for key in english if key not in found and not key.startswith("pages.")]
    complaints += [f"superfluous {key}" for key in found if key not in english]
    complaints += [f"superfluous {key} in {locales.TRANSLATED_FROM}.json" for key in accepted if key not in english]
    prose = ("description", "tooltip")
    complaints += [f"untranslated {key}" for key in both if key.endswith(prose) and found[key] == english[key]]
    complaints += [f"behind {key}" for key in locales.behind(nodes, language)]
    return complaints


def shown(nodes: Nodes) -> Complaints:
    """Texts can be shown, and translations keep numbers and the words of options."""
    return [f"{language}: {complaint}" for language in locales.LANGUAGES for complaint in _shown(nodes, language)]


def _shown(nodes: Nodes, language: str) -> Complaints:
    english = locales.english(nodes)["nodeDefs"]
    translated = english if language == "en" else locales.load(language, "nodeDefs")
    source, found = flat(english), flat(translated)
    complaints = [
        f"{key} is empty or holds one of {{}}@|$"
        for key, text in found.items()
        if not text.strip() or UNSHOWABLE & set(text)
    ]
    for key in source.keys() & found.keys():
        numbers = [set(re.findall(r"\d+(?:\.\d+)?", text)) for text in (source[key], found[key])]
        if numbers[0] != numbers[1]:
            complaints.append(f"{key} has other numbers than the English: {sorted(numbers[0] ^ numbers[1])}")
    for node in nodes.values():
        for i in node.inputs:
            key = f"{node.id}.inputs.{i.id}.tooltip"
            complaints += [
                f"{key} translates '{option}'"
                for option in i.options
                if not option.isalpha() and option in source.get(key, "") and option not in found.get(key, option)
            ]
    return complaints


def help_pages(nodes: Nodes) -> Complaints:
    """Pages name their node, their source, and messages that the program has; and there is none without a node."""
    found = []
    for language in locales.LANGUAGES:
        names = {node: entry.get("display_name") for node, entry in locales.load(language, "nodeDefs").items()}
        for node in nodes:
            path = pages.page_path(node, language)
            if not path.is_file():
                continue  # `generated` says so
            text, where, name = _read(path), path.relative_to(ROOT), names.get(node)
            if name is None:
                found.append(f"{where}: the first line is '# ' and {node}.display_name, which is not translated yet")
            elif not text.startswith(f"# {name}\n"):
                found.append(f"{where}: the first line is not '# {name}'")
            if f"\n{SOURCE[language]}\n" not in text:
                found.append(f"{where}: there is no '{SOURCE[language]}'")
            found += [f"{where}: the Info tab is too narrow for a table, write a list"] * ("\n|" in text)
            found += [f"{where}: nothing says '{part}'" for part in _unsaid(text)]
            elsewhere = set(_quoted(text)) ^ set(_quoted(_read(pages.page_path(node, "en"))))
            found += [
                f"{where}: only one of it and the English page quotes '{said}'"
                for said in sorted(elsewhere)
                if "…" in said
            ]
    here = {path.stem if path.parent == pages.DOCS else path.parent.name for path in pages.DOCS.rglob("*.md")}
    written = {(name, language) for name in WRITTEN for language in locales.LANGUAGES}
    missing = [where for where in written if not pages.page_path(*where).is_file()]
    found += [f"web/docs: {name} is not there in {language}" for name, language in sorted(missing)]
    others = {crossings_page.NAME, *WRITTEN}
    return found + [f"web/docs: {name} is no node" for name in sorted(here - nodes.keys() - others)]


def terms(nodes: Nodes) -> Complaints:
    """Translations use the words of ``locales/terms.json``, and none that it rules out."""
    dictionary = json.loads((ROOT / "locales" / "terms.json").read_text(encoding="utf-8"))
    found = []
    for language in TRANSLATED:
        texts = locales.translated_texts(nodes, language)
        texts |= {path.relative_to(ROOT).as_posix(): _read(path) for path in pages.DOCS.glob(f"[!E]*/{language}.md")}
        for term in dictionary:
            for key, text in texts.items():
                said = _ruled_out(text, term, language)
                found += [f"{language}: {key} says '{said}', for '{term['en']}' it is {term[language]}"] if said else []
    return found


def _ruled_out(text: str, term: dict[str, Any], language: str) -> str:
    """What a text says where a term has another word; "" for nothing."""
    for allowed in term.get("but", {}).get(language, ()):
        text = text.replace(allowed, "")
    patterns = term.get("not", {}).get(language, ())
    match = re.search("|".join(patterns), text) if patterns else None
    return match[0] if match else ""


#: What a recipe holds at most, in characters; other scripts say more with one.
LONGEST = {"en": 260, "zh": 160, "ja": 200}
#: Chinese and Japanese close a sentence where English has a colon.
MOST_SENTENCES = {"en": 2, "zh": 2, "ja": 4}


def recipes(nodes: Nodes) -> Complaints:
    """Every page says below its description, in at most two sentences, what to connect and what to turn first."""
    found = []
    for language in locales.LANGUAGES:
        for node in nodes.values():
            path = pages.page_path(node.id, language)
            if path.is_file():  # `generated` says so
                complaint = _recipe(node, _read(path), language)
                found += [f"{path.relative_to(ROOT)}: {complaint}"] if complaint else []
    return found


def _recipe(node: Node, text: str, language: str) -> str:
    """What is wrong with a page's recipe; "" for nothing."""
    paragraphs = text.split("\n## ")[0].strip().split("\n\n")
    if len(paragraphs) != 3:
        return (
            f"above the first heading stand {len(paragraphs)} paragraphs, expected the title, the description and the "
            "recipe: one paragraph of two lines, what to connect and which widget to turn first"
        )
    recipe = re.sub(f"(?<=`){BRACKET}", "", paragraphs[2])  # as it was written, without the names
    sentences = len(re.findall(r"[.!?](?=\s|$)|[。！？]", recipe.replace("\\\n", "\n")))
    if len(recipe.splitlines()) > 2 or sentences > MOST_SENTENCES[language] or len(recipe) > LONGEST[language]:
        return f"the recipe has {sentences} sentences and {len(recipe)} characters; say it in two, on two lines"
    ids = set(re.findall(r"`(\w+)`", recipe))
    if not ids & set(node.words):
        return "the recipe names no input or output of the node"
    widgets = {i.id for i in node.inputs if i.widget and not i.advanced}
    if widgets and not ids & {i.id for i in node.inputs if i.widget}:
        return f"the recipe names no widget to turn first, such as {', '.join(sorted(widgets))}"
    return ""


def _quoted(text: str) -> list[str]:
    """Messages that a page quotes: list items that begin in backticks, what is generated apart."""
    return re.findall(r"^- `([^`]+)`", pages.without_blocks(text), re.M)


def _unsaid(text: str) -> list[str]:
    """Quoted messages that the program never says; ``…`` stands for what it fills in."""
    parts = (part.strip() for message in _quoted(text) for part in message.split("…"))
    return [part for part in parts if part and not any(part in said for said in messages())]


@cache
def messages() -> frozenset[str]:
    """Every string constant of the pack, the fixed parts of f-strings among them."""
    sources = [path.read_text(encoding="utf-8") for folder in SPEAKING for path in (ROOT / folder).rglob("*.py")]
    parts = (part for source in sources for part in ast.walk(ast.parse(source)))
    return frozenset(p.value for p in parts if isinstance(p, ast.Constant) and isinstance(p.value, str))


CHECKS: tuple[Callable[[Nodes], Complaints], ...] = (schema, generated, translations, shown, help_pages, recipes, terms)
