"""The tables of all nodes: by systems in the README, in a sentence each in ``docs/nodes.md``."""

from __future__ import annotations

import re
from os.path import relpath
from pathlib import Path

from .pages import page_path, replaced, table
from .schemas import ROOT, Node, Nodes

README = ROOT / "README.md"
LIST = ROOT / "docs" / "nodes.md"

#: What a row of the README is called, its page in ``docs/``, and the files of ``nodes/`` whose nodes it holds.
SYSTEMS = {
    "Color by example": (
        "exemplar",
        ("exemplar", "inversion", "inversion_files", "exemplar_auto", "exemplar_stages", "attention_map", "confidence"),
    ),
    "Color memory": ("memory", ("memory", "memory_colorize", "memory_files")),
    "Colors of an edit": ("transfer", ("transfer",)),
    "Colors by statistics": ("match", ("match",)),
    "Films": ("film", ("video",)),
    "Steady colors over frames": ("steady", ("steady",)),
    "Automatic color": ("ddcolor", ("ddcolor",)),
    "Color from words": ("lcad", ("lcad", "lcad_instances", "clipseg")),
    "Style or thing of a reference": ("deadiff", ("deadiff",)),
    "Translation, prompt-to-prompt": ("vct", ("vct", "vct_concept", "vct_pivot", "vct_control")),
    "Lightness and chroma": ("nodes", ("color",)),
    "How good colors are": ("measure", ("measure",)),
    "Whether all is as it should be": ("doctor", ("doctor",)),
    "Pictures, embedded model": ("photographs", ("photographs", "embedded", "published_sampler")),
}


def in_readme(nodes: Nodes, text: str) -> str:
    """The README with today's nodes, a row for each system.

    :raises ValueError: a file of nodes that no system has.
    """
    files = {file for _, part in SYSTEMS.values() for file in part}
    if strange := sorted({node.file for node in nodes.values()} - files):
        raise ValueError(f"nodes/{strange[0]}.py is in no row of the README: add it to SYSTEMS in texts/node_tables.py")
    rows = []
    for name, (page, part) in SYSTEMS.items():
        links = ", ".join(_link(node, README) for node in nodes.values() if node.file in part)
        rows.append((f"[{name}](docs/{page}.md)", links))
    return replaced(text, "nodes", table(("for", "nodes"), rows))


def in_list(nodes: Nodes, text: str) -> str:
    """The list with today's nodes, a row each."""
    rows = [(_link(node, LIST), first_sentence(node.description)) for node in nodes.values()]
    return replaced(text, "nodes", table(("node", "what it does"), rows))


def _link(node: Node, where: Path) -> str:
    page = Path(relpath(page_path(node.id, "en"), where.parent)).as_posix()
    return f"[{node.name}]({page})"


def first_sentence(text: str) -> str:
    """Up to the first full stop that a capital letter follows; without the stop."""
    match = re.match(r"(.*?)\.(?=\s+[A-Z]|\s*$)", text, re.S)
    return match[1] if match else text
