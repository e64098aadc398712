"""Nodes' schemas against those of version 0.1.0, on which saved workflows rest (``tests/data/README.md``)."""

import json
from pathlib import Path

import pytest

from texts.schemas import read

RECORDED = json.loads((Path(__file__).parent / "data" / "node_schemas.json").read_text(encoding="utf-8"))


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
    same_start(name, [i.id for i in now], [i["id"] for i in recorded])
    same_start(name, [(i.id, i.type) for i in now], [(i["id"], i["type"]) for i in recorded])
    same_start(name, [(i.id, not i.optional) for i in now], [(i["id"], i["required"]) for i in recorded])
    assert all(i.optional for i in now[len(recorded) :]), f"{name}: an input that old workflows lack must be optional"


@pytest.mark.parametrize("name", RECORDED)
def test_outputs_stand_where_they_stood(name, nodes):
    """A link keeps the output's number."""
    now, recorded = nodes[name].outputs, RECORDED[name]["outputs"]
    same_start(name, [(o.name, o.type) for o in now], [(o["name"], o["type"]) for o in recorded])


@pytest.mark.parametrize("name", RECORDED)
def test_options_and_defaults_are_the_recorded_ones(name, nodes):
    """A default may have become auto, which any negative number means; nothing else."""
    now = {i.id: i for i in nodes[name].inputs}
    for recorded in RECORDED[name]["inputs"]:
        i = now[recorded["id"]]
        same_start(f"{name}.{i.id}", i.options, recorded.get("options", []))
        if i.auto:
            assert i.default < 0, f"{name}.{i.id} is auto, so its default is a negative number"
        else:
            assert i.default == recorded.get("default"), f"{name}.{i.id}"
        assert type(i.default) is type(recorded.get("default")), f"{name}.{i.id} has a default of another type"
