"""What the example workflows say: their notes, and the titles of their nodes and groups."""

from __future__ import annotations

import json
from typing import Any

from .schemas import ROOT

FOLDER = ROOT / "example_workflows"
NOTES = ("MarkdownNote", "Note")


def texts() -> tuple[dict[str, str], dict[str, str]]:
    """Notes by the name of their workflow (a second one with its number), and every title by itself."""
    notes: dict[str, str] = {}
    titles: set[str] = set()
    for path in sorted(FOLDER.glob("*.json")):
        graph = json.loads(path.read_text(encoding="utf-8"))
        said = [node["widgets_values"][0] for node in graph["nodes"] if node["type"] in NOTES]
        notes |= {path.stem + (f" ({at})" if at > 1 else ""): text for at, text in enumerate(said, 1)}
        titles |= _titles(graph)
        for subgraph in graph.get("definitions", {}).get("subgraphs", []):
            titles |= _titles(subgraph)
    return notes, {title: title for title in sorted(titles)}


def _titles(graph: dict[str, Any]) -> set[str]:
    items = [*graph["nodes"], *graph.get("groups", [])]
    return {item["title"] for item in items if item.get("title")}
