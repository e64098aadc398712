"""What the nodes' schemas say, as plain values."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfyui_exemplar.settings import RENAMED_FROM

ROOT = Path(__file__).resolve().parent.parent
DUMP = ROOT / "tests" / "stand_in" / "dump.py"


@dataclass(frozen=True)
class Input:
    """An input of a node.

    :param widget: whether it has a widget; a socket otherwise.
    :param auto: whether its default means that the model's recommendation is taken.
    :param behind_auto: what stands in for a missing recommendation.
    :param published: the published program's value, where the default is another one.
    :param formerly: the id that it had before it was renamed, if it was.
    """

    id: str
    type: str
    tooltip: str
    optional: bool
    widget: bool
    advanced: bool
    default: Any
    options: tuple[str, ...]
    auto: bool
    behind_auto: Any
    published: Any
    formerly: str | None = None

    @property
    def recorded(self) -> str:
        """The id under which older workflows have it."""
        return self.formerly or self.id


@dataclass(frozen=True)
class Output:
    """An output of a node."""

    name: str
    type: str
    tooltip: str


@dataclass(frozen=True)
class Node:
    """A node as its user sees it.

    :param file: of ``nodes/`` in which it stands, without suffix.
    """

    id: str
    name: str
    category: str
    description: str
    aliases: tuple[str, ...]
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    file: str

    @property
    def words(self) -> Iterator[str]:
        """Ids of inputs and names of outputs."""
        yield from (i.id for i in self.inputs)
        yield from (o.name for o in self.outputs)


Nodes = Mapping[str, Node]


def read() -> Nodes:
    """All nodes by their ids, in the pack's order.

    :raises RuntimeError: the schemas could not be read; the message has the traceback.
    """
    done = subprocess.run([sys.executable, str(DUMP)], capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode:
        raise RuntimeError(f"{DUMP.relative_to(ROOT)} ended with:\n{done.stderr}")
    return {node_id: _node(schema) for node_id, schema in json.loads(done.stdout).items()}


def _node(schema: dict[str, Any]) -> Node:
    return Node(
        schema["node_id"],
        schema["display_name"] or "",
        schema["category"],
        schema["description"] or "",
        tuple(schema["search_aliases"] or ()),
        tuple(_input(item) for item in schema["inputs"]),
        tuple(Output(item["display_name"] or "", item["type"], item["tooltip"] or "") for item in schema["outputs"]),
        schema["file"],
    )


def _input(item: dict[str, Any]) -> Input:
    setting = item.get("setting") or {}
    return Input(
        item["id"],
        item["type"],
        item["tooltip"] or "",
        bool(item["optional"]),
        item["widget"],
        bool(item["advanced"]),
        item.get("default"),
        tuple(item.get("options") or ()),
        setting.get("auto", False),
        setting.get("default"),
        setting.get("published"),
        item["extra_dict"].get(RENAMED_FROM),
    )
