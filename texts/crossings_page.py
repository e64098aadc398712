"""The help page "What goes with what", made of the table of ``crossings`` and of the nodes' names in each language."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .crossings import ASIDE, COLUMNS, NOTHING, REFUSED, ROWS, TOGETHER, WARNED, Row
from .pages import DOCS

#: The page's file and folder.
NAME = "what-goes-with-what"

_TITLE = {"en": "What goes with what", "zh": "什么与什么搭配", "ja": "何と何が組み合わせられるか"}
_INTRODUCTION = {
    "en": "ComfyUI's own nodes beside the nodes of this pack that edit a MODEL's attention. The tests try every pair "
    "in ComfyUI, against a number that is computed another way: one call of the model for each prompt, the edits by "
    "their formulas. Unless a note says so, the order of the nodes does not matter: edits are laid over whatever "
    "stands on a layer when the model is called, the last one on top, and which row is whose is read from the guider's "
    "own prompts.",
    "zh": "ComfyUI 自带节点与本包中编辑模型注意力的节点。测试在 ComfyUI 中逐对验证，并与另一种方式算出的数值比较："
    "每个提示词单独调用模型，编辑按公式计算。除非注释另有说明，节点顺序无关紧要："
    "编辑在模型被调用时叠加在该层已有内容之上，最后一个在最上面；"
    "每一行属于谁由引导器自己的提示词决定。",
    "ja": "ComfyUI 自身のノードと、このパックのうちモデルのアテンションを編集するノードです。テストは ComfyUI で"
    "すべての組を試し、別の方法で計算した値（プロンプトごとに一回の呼び出し、式どおりの編集）と比べます。"
    "注記がないかぎり、ノードの順序は問いません。編集はモデルが呼ばれたときに層の上へ重ねられ、最後のものが一番上です。"
    "どの行が誰のものかは、ガイダー自身のプロンプトから読み取ります。",
}
_OUTCOMES = {
    "en": {
        TOGETHER: ("together", "both do what they say."),
        WARNED: ("warned", "they go together, and one warning a run, in the log and on the node, says what to know."),
        ASIDE: ("aside", "where the two can't meet our node leaves things as they are, with one warning a run."),
        REFUSED: ("refused", "an error says which node is in the way and what to do."),
        NOTHING: ("apart", "the two don't meet."),
    },
    "zh": {
        TOGETHER: ("可以", "两者都起作用。"),
        WARNED: ("警告", "可以一起用，每次运行在日志和节点上给出一条警告。"),
        ASIDE: ("退让", "两者冲突之处，本包节点不作改动，每次运行给出一条警告。"),
        REFUSED: ("拒绝", "报错并说明是哪个节点、该怎么做。"),
        NOTHING: ("无关", "两者互不相干。"),
    },
    "ja": {
        TOGETHER: ("可", "両方とも働きます。"),
        WARNED: ("警告", "組み合わせられます。実行ごとに警告を一つ、ログとノードに出します。"),
        ASIDE: ("退避", "両立しないところでは何も変えず、実行ごとに警告を一つ出します。"),
        REFUSED: ("拒否", "妨げているノードとすべきことをエラーで示します。"),
        NOTHING: ("無関係", "関わりがありません。"),
    },
}
_SECTIONS = {
    "guidance": {"en": "Guidance", "zh": "引导", "ja": "ガイダンス"},
    "patches": {"en": "Patches of a MODEL", "zh": "模型补丁", "ja": "モデルのパッチ"},
    "prompts": {"en": "Prompts", "zh": "提示词", "ja": "プロンプト"},
    "weights": {"en": "Weights", "zh": "权重", "ja": "重み"},
    "latents": {"en": "Latents", "zh": "Latent", "ja": "潜在"},
    "ours": {"en": "Nodes of this pack", "zh": "本包的节点", "ja": "このパックのノード"},
}
_ALL = {"en": ("all", "all others"), "zh": ("全部", "其余全部"), "ja": ("すべて", "ほかのすべて")}
_COLON = {"en": ": ", "zh": "：", "ja": "："}
_COMMA = {"en": ", ", "zh": "、", "ja": "、"}


def page_path(language: str) -> Path:
    """Where a language's page is."""
    return DOCS / f"{NAME}.md" if language == "en" else DOCS / NAME / f"{language}.md"


def page(language: str, definitions: Mapping[str, Any]) -> str:
    """The page in a language.

    :param definitions: the language's ``nodeDefs.json``, for the nodes' names.
    """
    said = _OUTCOMES[language]
    legend = "\n".join(f"- **{word}**{_COLON[language]}{meaning}" for word, meaning in said.values())
    columns = {key: _column(*at, definitions) for key, at in COLUMNS.items()}
    parts = [f"# {_TITLE[language]}", _INTRODUCTION[language], legend]
    for section, rows in ROWS.items():
        parts += [f"## {_SECTIONS[section][language]}", "\n".join(_item(row, language, columns) for row in rows)]
    return "\n\n".join(parts) + "\n"


def _column(node: str, way: str, definitions: Mapping[str, Any]) -> str:
    name = definitions.get(node, {}).get("display_name", node)
    return f"{name} (`{way}`)" if way else name


def _item(row: Row, language: str, columns: Mapping[str, str]) -> str:
    """A row as an item: its name, then each outcome with its columns, the one that most have last, then the note."""
    groups: dict[str, list[str]] = {}
    for column, name in columns.items():
        groups.setdefault(row.outcome(column), []).append(name)
    *few, (most, _) = sorted(groups.items(), key=lambda group: len(group[1]))
    said = [*((outcome, _COMMA[language].join(names)) for outcome, names in few), (most, _ALL[language][bool(few)])]
    words = _OUTCOMES[language]
    lines = [f"- **{row.name}**", *(f"{words[outcome][0]}{_COLON[language]}{names}" for outcome, names in said)]
    return "\\\n  ".join([*lines, row.notes[language]] if row.notes[language] else lines)
