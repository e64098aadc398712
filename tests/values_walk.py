"""Every odd value on every widget of every node, without ComfyUI; prints what was not refused, as JSON.

``python tests/values_walk.py``: a process of its own, since the stand-in stays for good (``test_node_values.py``).
"""

from __future__ import annotations

import itertools
import json
import random
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "stand_in"), str(HERE.parent)]


def flaw(node, schema, inputs, names):
    """What is wrong with how a node meets odd widgets, "" for nothing; no other input is there."""
    try:
        node.execute(**{item.id: None for item in schema.inputs if not hasattr(item, "setting")} | inputs)
    except Exception as error:  # noqa: BLE001  what kind it is, is the question
        named = rf"{re.escape(schema.display_name)}: ({'|'.join(names)}) is .*; (expected|it must).*\."
        if type(error) is ValueError and re.fullmatch(named, str(error)):
            return ""
        return f"{type(error).__name__}: {error}"
    return "taken silently"


def main():
    from tests.fixtures.odd import odd_for
    from tests.fixtures.package import load_package

    runs, wrong = 0, []

    def look(node, schema, odd):
        nonlocal runs
        runs += 1
        defaults = {item.id: item.default for item in schema.inputs if hasattr(item, "setting")}
        found = flaw(node, schema, defaults | {name: value for name, _, value in odd}, [name for name, _, _ in odd])
        if found:
            said = " and ".join(f"{name}: {label}" for name, label, _ in odd)
            wrong.append(f"{schema.node_id}, {said}: {found[:300]}")

    for node in load_package().NODES:
        schema = node.define_schema()
        tables = {item.id: odd_for(item.setting) for item in schema.inputs if hasattr(item, "setting")}
        tables = {name: {**table, "nothing": None} for name, table in tables.items()}
        for name, table in tables.items():
            for label, value in table.items():
                look(node, schema, [(name, label, value)])
        chosen = random.Random(schema.node_id)
        for names in itertools.combinations(tables, 2):
            odd = [(name, label, tables[name][label]) for name in names for label in [chosen.choice([*tables[name]])]]
            look(node, schema, odd)
    return {"runs": runs, "wrong": wrong}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main()))
