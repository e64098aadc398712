"""What is generated on the help pages: lists of inputs and outputs, and what files recommend.

A page is read in the Info tab, which is about 280 pixels wide: lists fit there, tables do not. Each stands between
markers: ``<!-- inputs -->`` and ``<!-- /inputs -->``, ``outputs``, ``recommended`` on the pages of loaders
whose embedded file recommends something. What stands there is replaced, everything else is written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfyui_exemplar.pipelines.recommended import read_recommended
from comfyui_exemplar.settings import AUTO_HELP

from .names import Tongue, named
from .schemas import ROOT, Input, Node

DOCS = ROOT / "web" / "docs"

#: Loaders and their embedded files.
EMBEDDED = {
    "ExemplarLoadDemoModel": "model.safetensors",
    "ExemplarLoadDDColor": "ddcolor.safetensors",
    "ExemplarLoadLCAD": "lcad.safetensors",
}


@dataclass(frozen=True)
class Words:
    """What the lists need of a language.

    :param name: how a translated name stands behind its id; English has the id alone.
    :param default: how a default is told, ``empty`` one that is an empty text.
    :param aside: a value beside the default, such as what auto stands for.
    :param auto_sentence: how the tooltip of an auto setting ends: ``nodes.widgets`` puts it there in English, ``make
        texts`` in translations; a page says it once, below the list.
    """

    no_inputs: str
    no_outputs: str
    name: str
    default: str
    empty: str
    aside: str
    auto: str
    auto_sentence: str
    published: str
    optional: str
    on: str
    off: str


WORDS = {
    "en": Words(
        no_inputs="This node has no inputs.",
        no_outputs="This node has no outputs.",
        name="",
        default="default {}",
        empty="empty",
        aside="{} ({})",
        auto="auto",
        auto_sentence=AUTO_HELP,
        published="published: {}",
        optional="optional",
        on="on",
        off="off",
    ),
    "zh": Words(
        no_inputs="本节点没有输入。",
        no_outputs="本节点没有输出。",
        name="（{}）",
        default="默认 {}",
        empty="空",
        aside="{}（{}）",
        auto="自动",
        auto_sentence="负数为自动：采用模型自己的推荐值，没有则采用已发表的值。",
        published="已发表程序：{}",
        optional="可选",
        on="开",
        off="关",
    ),
    "ja": Words(
        no_inputs="このノードに入力はありません。",
        no_outputs="このノードに出力はありません。",
        name="（{}）",
        default="既定値 {}",
        empty="空",
        aside="{}（{}）",
        auto="自動",
        auto_sentence="負の数は自動です。モデル自身の推奨値、なければ公開された値を使います。",
        published="公開プログラム：{}",
        optional="省略可",
        on="オン",
        off="オフ",
    ),
}

#: Identifiers and folders, which a page sets in backticks wherever they stand.
_IDENTIFIER = r"[A-Za-z0-9]+(?:_[A-Za-z0-9]+)+|models/[A-Za-z0-9_./-]*[A-Za-z0-9_]"


def page_path(node: str, language: str) -> Path:
    return DOCS / f"{node}.md" if language == "en" else DOCS / node / f"{language}.md"


def _marked(block: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {block} -->\n).*?(<!-- /{block} -->)", re.S)


def replaced(text: str, block: str, content: str) -> str:
    """A text with other content between the markers of a block.

    :raises ValueError: the markers are not there, or not once.
    """
    pattern = _marked(block)
    if len(pattern.findall(text)) != 1:
        raise ValueError(f"expected '<!-- {block} -->' and '<!-- /{block} -->' once, each on a line of its own")
    return pattern.sub(lambda match: f"{match[1]}\n{content}\n\n{match[2]}", text)


def without_blocks(text: str) -> str:
    """A page without what is generated."""
    for block in ("inputs", "outputs", "recommended"):
        text = _marked(block).sub(r"\1\2", text)
    return text


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    cells = [list(head)]
    cells += [["---"] * len(cells[0]), *map(list, rows)]
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


def page(node: Node, language: str, text: str, tongue: Tongue) -> str:
    """A help page with today's lists, and in a translation with the names of what is wired.

    :param text: the page as it stands.
    :param tongue: what the language calls everything.
    :raises ValueError: markers are not there, or what stands behind an id is none of its names.
    """
    words, locale = WORDS[language], tongue.definitions.get(node.id, {})
    if tongue.names:
        text = named(text, words.name, tongue.names[node.id], tongue.names.values())
    entries = locale.get("inputs", {})
    inputs = [
        _item(node, i.id, i.options, words, entries.get(i.id, {}), shown(i, words, tongue.options)) for i in node.inputs
    ]
    entries = locale.get("outputs", {})
    outputs = [_item(node, o.name, (), words, entries.get(str(at), {})) for at, o in enumerate(node.outputs)]
    below = f"\n\n{words.auto_sentence}" if any(i.auto for i in node.inputs) else ""
    text = replaced(text, "inputs", "\n".join(inputs) + below if inputs else words.no_inputs)
    if node.id in EMBEDDED:
        text = replaced(text, "recommended", _recommended(ROOT / "demo" / EMBEDDED[node.id]))
    return replaced(text, "outputs", "\n".join(outputs) or words.no_outputs)


def _recommended(file: Path) -> str:
    """A line a section of a file's header."""
    sections = read_recommended(file)
    lines = [
        (system, (f"`{name}` {value:g}" for name, value in section.items())) for system, section in sections.items()
    ]
    return "\n".join(f"- `{system}`: {', '.join(values)}" for system, values in lines)


def _item(
    node: Node, name: str, options: Iterable[str], words: Words, entry: Mapping[str, str], default: str = ""
) -> str:
    """An input or output: its id, its name in the language and its default on one line, what it does on the next."""
    translated = words.name.format(entry.get("name", ""))
    behind = ("· " if translated else " · ") + default if default else ""  # a full-width bracket has its own room
    # of other inputs' choices those that are no name, lest 'all for every image' has an identifier in it
    phrases = {option for i in node.inputs for option in i.options if " " in option and option.islower()}
    ids = () if words is WORDS["en"] else {*node.words, *phrases}
    text = entry.get("tooltip", "").removesuffix(words.auto_sentence).rstrip()
    return f"- `{name}`{translated}{behind}\\\n  {quoted(text, options, ids)}"


def quoted(text: str, options: Iterable[str] = (), ids: Iterable[str] = ()) -> str:
    """A tooltip with options and identifiers in backticks.

    A plain word is quoted where it stands first, since English also uses it as a word: 'model keeps the model's own
    precision'.

    :param ids: words that are identifiers wherever they stand, which only holds in a language with another script.
    """
    always = {word for word in ids if len(word) > 2}
    options = [option for option in options if option]
    once = {option for option in options if not always and option.isalpha()}
    words = sorted({*options, *always}, key=len, reverse=True)
    any_word = "|".join([*map(re.escape, words), _IDENTIFIER])
    pattern = re.compile(rf"(?<![\w./:])(?:{any_word})(?![\w/])", re.A)
    seen: set[str] = set()

    def quote(match: re.Match[str]) -> str:
        word = match[0]
        if word in once and word in seen:
            return word
        seen.add(word)
        return f"`{word}`"

    return pattern.sub(quote, text)


def value(default: Any, words: Words) -> str:
    """A default as the pages write it."""
    if default is None:
        return "–"
    if isinstance(default, bool):
        return words.on if default else words.off
    return f"{default:g}" if isinstance(default, (int, float)) else str(default)


def shown(item: Input, words: Words, options: Mapping[str, str] = {}) -> str:
    """What stands behind an input's name: its default, or that it is optional; nothing for one that has to come in.

    :param options: what the language calls choices; the widget shows both as well.
    """
    if not item.widget:
        return words.optional if item.optional else ""
    default = value(item.behind_auto if item.auto else item.default, words)
    text = words.aside.format(words.auto, default) if item.auto else default or words.empty
    if item.options and options.get(default, default) != default:
        text += words.name.format(options[default])
    if item.published is not None and value(item.published, words) != default:
        text = words.aside.format(text, words.published.format(value(item.published, words)))
    return words.default.format(text)
