"""Nodes' schemas against those of version 0.1.0, on which saved workflows rest (``tests/data/README.md``).

An input that was renamed since says what it was called, and is looked for under that name.
"""

import ast
import json
from pathlib import Path

import pytest

from texts.schemas import ROOT, read

RECORDED = json.loads((Path(__file__).parent / "data" / "node_schemas.json").read_text(encoding="utf-8"))


#: Sockets that were required and need not be connected any more. Whatever was saved has them connected, so it loads and
#: runs as it did; links go by the inputs' names, since optional sockets stand behind the required ones on the page. A
#: widget may not be loosened: values are kept by their place.
LOOSENED = {
    "ExemplarColorize": ("conditioning",),
    "ExemplarDDIMInversion": ("conditioning",),
    "ExemplarColorGuidance": ("conditioning",),
    "ExemplarPivotInversion": ("conditioning",),
}


@pytest.fixture(scope="module")
def nodes():
    return read()


def same_start(name, now, recorded):
    assert list(now[: len(recorded)]) == recorded, f"{name}: what was recorded changed place, or is gone"


def test_no_node_is_gone(nodes):
    assert not RECORDED.keys() - nodes.keys()


@pytest.mark.parametrize("name", RECORDED)
def test_inputs_stand_where_they_stood(name, nodes):
    """A workflow keeps the values of widgets by their place."""
    now, recorded = nodes[name].inputs, RECORDED[name]["inputs"]
    same_start(name, [i.recorded for i in now], [i["id"] for i in recorded])
    same_start(name, [(i.recorded, i.type) for i in now], [(i["id"], i["type"]) for i in recorded])
    loosened = [(i["id"], i["required"] and i["id"] not in LOOSENED.get(name, ())) for i in recorded]
    same_start(name, [(i.recorded, not i.optional) for i in now], loosened)
    assert all(i.optional for i in now[len(recorded) :]), f"{name}: an input that old workflows lack must be optional"


@pytest.mark.parametrize("name", RECORDED)
def test_outputs_stand_where_they_stood(name, nodes):
    """A link keeps the output's number."""
    now, recorded = nodes[name].outputs, RECORDED[name]["outputs"]
    same_start(name, [(o.name, o.type) for o in now], [(o["name"], o["type"]) for o in recorded])


@pytest.mark.parametrize("name", RECORDED)
def test_options_and_defaults_are_the_recorded_ones(name, nodes):
    """A default may have become auto, which any negative number means; nothing else."""
    now = {i.recorded: i for i in nodes[name].inputs}
    for recorded in RECORDED[name]["inputs"]:
        i = now[recorded["id"]]
        same_start(f"{name}.{i.id}", i.options, recorded.get("options", []))
        if i.auto:
            assert i.default < 0, f"{name}.{i.id} is auto, so its default is a negative number"
        else:
            assert i.default == recorded.get("default"), f"{name}.{i.id}"
        assert type(i.default) is type(recorded.get("default")), f"{name}.{i.id} has a default of another type"


def test_only_sockets_are_loosened(nodes):
    for name, inputs in LOOSENED.items():
        recorded = {i["id"]: i for i in RECORDED[name]["inputs"]}
        now = {i.recorded: i for i in nodes[name].inputs}
        assert all(recorded[i]["required"] and now[i].optional and not now[i].widget for i in inputs), name


def test_names_that_inputs_had_are_nobody_elses(nodes):
    """A former name is one of the record, and no input of today's has it, so that it can mean one thing only."""
    for name, node in nodes.items():
        ids = {i.id for i in node.inputs}
        assert not ids & {i.formerly for i in node.inputs}, name
        assert len({i.recorded for i in node.inputs}) == len(node.inputs), name


def test_a_setting_added_later_finds_its_place():
    """Every node ends its inputs with the later settings of the classes that its widgets come from."""
    checked = 0
    for path in (ROOT / "nodes").glob("*.py"):
        for schema in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not (isinstance(schema, ast.Call) and ast.unparse(schema.func) == "io.Schema"):
                continue
            (inputs,) = [keyword.value for keyword in schema.keywords if keyword.arg == "inputs"] or [None]
            if not isinstance(inputs, ast.List):
                continue
            calls = [node for node in ast.walk(inputs) if isinstance(node, ast.Call)]
            classes = {ast.unparse(call.args[0]) for call in calls if ast.unparse(call.func) == "widgets"}
            if classes:
                last = ast.unparse(inputs.elts[-1])
                assert last.startswith("*later_widgets("), f"{path.name}: {last}"
                assert all(name in last for name in classes), f"{path.name}: {last} lacks one of {classes}"
                checked += 1
    assert checked > 20
