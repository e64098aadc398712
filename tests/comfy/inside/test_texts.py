"""The words a user reads: schemas, the locales built on them, and the help pages.

The English locale is made from the schemas; ``locales/README.md`` says how. Translations and help pages are written by
hand, and this file says what they lack. It runs inside ComfyUI (``run_inside.py``), because the schemas are ComfyUI's.
"""

import ast
import json
import os
import re
from functools import cache
from pathlib import Path

import pytest
from comfy_api.latest import io

from comfyui_exemplar.nodes import NODES

ROOT = Path(__file__).resolve().parents[3]
LANGUAGES = ("en", "zh", "ja")
TRANSLATED = LANGUAGES[1:]
#: Visible widgets that a user can take in at once; everything beyond is advanced.
MOST_VISIBLE = 5
#: Set to 1, ``test_english_locale_is_the_schemas`` writes the English locale before it looks at it.
WRITE = "EXEMPLAR_WRITE_ENGLISH"

SCHEMAS = {schema.node_id: schema for schema in (node.GET_SCHEMA() for node in NODES)}
each_node = pytest.mark.parametrize("node", SCHEMAS)
each_page = pytest.mark.parametrize(("node", "language"), [(n, code) for n in SCHEMAS for code in LANGUAGES])


def readable(identifier: str) -> str:
    """``match_chroma`` -> ``match chroma``, the label on the node."""
    return identifier.replace("_", " ")


def entry(name: str, tooltip: str | None) -> dict[str, str]:
    return {"name": readable(name), **({"tooltip": tooltip} if tooltip else {})}


def english_nodes() -> dict[str, dict]:
    """``locales/en/nodeDefs.json``: what the schemas say, with readable labels."""
    found = {}
    for node, schema in SCHEMAS.items():
        found[node] = {
            "display_name": schema.display_name,
            "description": schema.description,
            "inputs": {i.id: entry(i.id, i.tooltip) for i in schema.inputs},
            "outputs": {str(at): entry(o.display_name, o.tooltip) for at, o in enumerate(schema.outputs)},
        }
    return found


def english_main() -> dict[str, dict]:
    """``locales/en/main.json``: the words of the categories."""
    words = {word for schema in SCHEMAS.values() for word in schema.category.split("/")}
    return {"nodeCategories": {word: word for word in sorted(words)}}


ENGLISH = {"nodeDefs": english_nodes, "main": english_main}


def locale_path(language: str, file: str) -> Path:
    return ROOT / "locales" / language / f"{file}.json"


def locale(language: str, file: str) -> dict:
    return json.loads(locale_path(language, file).read_text(encoding="utf-8"))


def flat(tree: dict, path: str = "") -> dict[str, str]:
    """Leaves by their path, ``ExemplarColorize.inputs.vae.name``."""
    leaves = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{path}{key}.") if isinstance(value, dict) else {path + key: value}
    return leaves


def page(node: str, language: str) -> str:
    folder = ROOT / "web" / "docs"
    path = folder / f"{node}.md" if language == "en" else folder / node / f"{language}.md"
    assert path.is_file(), f"{node} has no help page in '{language}': write {path.relative_to(ROOT)}"
    return path.read_text(encoding="utf-8")


def rows(text: str) -> dict[str, list[str]]:
    """Table rows that begin with an id in backticks: id -> the other cells."""
    found = re.findall(r"^\| `([^`]+)` \|(.*)\|\s*$", text, re.M)
    return {name: [cell.strip() for cell in re.split(r"(?<!\\)\|", rest)] for name, rest in found}


def shown(default) -> str:
    """A default as the help pages write it."""
    if isinstance(default, bool):
        return "on" if default else "off"
    return f"{default:g}" if isinstance(default, (int, float)) else str(default)


# The schemas


@each_node
def test_schema_has_its_texts(node):
    schema = SCHEMAS[node]
    assert node.startswith("Exemplar")
    assert schema.display_name and schema.description and schema.description.endswith(".")
    assert schema.category.split("/")[0] == "exemplar"
    assert len(set(schema.search_aliases or ())) >= 2
    for i in schema.inputs:
        if isinstance(i, io.WidgetInput) or i.optional:
            assert i.tooltip, f"{node}.{i.id} needs a tooltip"
    assert all(o.display_name for o in schema.outputs), f"{node} has an output without a name"


@each_node
def test_few_widgets_are_visible_at_first(node):
    visible = [i.id for i in SCHEMAS[node].inputs if isinstance(i, io.WidgetInput) and not i.advanced]
    assert len(visible) <= MOST_VISIBLE, f"{node} shows {visible}: mark the ones that can wait as advanced"


# The locales


@pytest.mark.parametrize("file", ENGLISH)
def test_english_locale_is_the_schemas(file):
    wanted = ENGLISH[file]()
    if os.environ.get(WRITE) == "1":
        text = json.dumps(wanted, indent=2, ensure_ascii=False) + "\n"
        locale_path("en", file).write_text(text, encoding="utf-8", newline="\n")
    found, wanted = flat(locale("en", file)), flat(wanted)
    differences = [
        f"{key}: locale {found.get(key)!r}, schema {wanted.get(key)!r}"
        for key in sorted(found.keys() | wanted.keys())
        if found.get(key) != wanted.get(key)
    ]
    assert not differences, "regenerate it as locales/README.md says:\n" + "\n".join(differences)


@pytest.mark.parametrize("language", TRANSLATED)
@pytest.mark.parametrize("file", ENGLISH)
def test_translation_has_every_text_and_no_other(file, language):
    wanted, found = flat(ENGLISH[file]()), flat(locale(language, file))
    assert not wanted.keys() - found.keys(), f"{language}/{file}.json lacks these"
    assert not found.keys() - wanted.keys(), f"{language}/{file}.json has these, the schemas have not"


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("file", ENGLISH)
def test_texts_can_be_shown(file, language):
    for key, text in flat(locale(language, file)).items():
        assert text.strip(), f"{language}/{file}.json: {key} is empty"
        # the browser's translator reads these as placeholders, links and plurals
        assert not set(text) & set("{}@|$"), f"{language}/{file}.json: {key} holds one of {{}}@|$"


@pytest.mark.parametrize("language", TRANSLATED)
def test_translation_is_translated(language):
    english, found = flat(english_nodes()), flat(locale(language, "nodeDefs"))
    same = [key for key in english if key.endswith(("description", "tooltip")) and found.get(key) == english[key]]
    assert not same, f"{language}/nodeDefs.json repeats the English"


@pytest.mark.parametrize("language", TRANSLATED)
def test_translation_keeps_numbers_and_options(language):
    """A number that changes in translation is a mistake; options are shown untranslated on the node."""
    english, found = flat(english_nodes()), flat(locale(language, "nodeDefs"))
    for key in english.keys() & found.keys():
        numbers = [set(re.findall(r"\d+(?:\.\d+)?", text)) for text in (english[key], found[key])]
        assert numbers[0] == numbers[1], f"{language}/nodeDefs.json: {key} has other numbers than the English"
    for node, schema in SCHEMAS.items():
        for i in schema.inputs:
            tooltip = f"{node}.inputs.{i.id}.tooltip"
            for option in getattr(i, "options", None) or ():
                if re.search(rf"\b{re.escape(option)}\b", english.get(tooltip, "")) and " " in option:
                    assert option in found[tooltip], f"{language}/nodeDefs.json: {tooltip} translates '{option}'"


# The help pages


@each_page
def test_help_page_names_every_input_with_its_default(node, language):
    table, schema = rows(page(node, language)), SCHEMAS[node]
    for i in schema.inputs:
        assert i.id in table, f"no table row '| `{i.id}` | ... |'"
        if isinstance(i, io.WidgetInput):
            assert table[i.id][-1] == shown(i.default), f"{i.id}: the last cell is its default"
        for option in getattr(i, "options", None) or ():
            assert f"`{option}`" in " ".join(table[i.id]) or option == shown(i.default), f"{i.id} leaves out '{option}'"


@each_page
def test_help_page_names_every_output_and_nothing_else(node, language):
    table, schema = rows(page(node, language)), SCHEMAS[node]
    outputs = {o.display_name for o in schema.outputs}
    assert not outputs - table.keys(), "outputs without a table row"
    assert not table.keys() - outputs - {i.id for i in schema.inputs}, "rows of what the node does not have"


@each_page
def test_help_page_starts_with_the_nodes_name(node, language):
    name = locale(language, "nodeDefs")[node]["display_name"]
    assert page(node, language).startswith(f"# {name}\n")


@each_page
def test_help_page_names_the_source_or_says_there_is_none(node, language):
    headings = {"en": "## Source", "zh": "## 来源", "ja": "## 出典"}
    assert f"\n{headings[language]}\n" in page(node, language)


@each_page
def test_quoted_messages_are_the_programs(node, language):
    """A list item that begins in backticks quotes a message; ``…`` stands for what the program fills in."""
    for message in re.findall(r"^- `([^`]+)`", page(node, language), re.M):
        for part in message.split("…"):
            assert not part.strip() or any(part.strip() in said for said in spoken()), f"nothing says '{part}'"


@cache
def spoken() -> frozenset[str]:
    """Every string constant of the pack, the fixed parts of f-strings among them."""
    folders = ("attention", "color", "demo", "diffusion", "hosts", "networks", "nodes", "pipelines")
    sources = [path.read_text(encoding="utf-8") for folder in folders for path in (ROOT / folder).glob("*.py")]
    parts = (part for source in sources for part in ast.walk(ast.parse(source)))
    return frozenset(p.value for p in parts if isinstance(p, ast.Constant) and isinstance(p.value, str))


def test_no_page_without_a_node():
    folder = ROOT / "web" / "docs"
    pages = {path.stem if path.parent == folder else path.parent.name for path in folder.rglob("*.md")}
    assert pages == set(SCHEMAS)
