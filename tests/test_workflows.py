"""The example workflows and the blueprint as files: whose nodes they hold, and what a user reads in them."""

import json
import re

import pytest

from texts.schemas import read

from .test_architecture import ROOT
from .test_packaging import project

WORKFLOWS = sorted((ROOT / "example_workflows").glob("*.json"))
BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))

#: Nodes of the page alone, which belong to no pack.
NOTES = ("MarkdownNote", "Note")


def load(path):
    return json.loads(path.read_text("utf-8"))


def nodes_of(path):
    """The nodes of a file, those inside subgraphs too."""
    content = load(path)
    subgraphs = content.get("definitions", {}).get("subgraphs", [])
    return [*content["nodes"], *(node for subgraph in subgraphs for node in subgraph["nodes"])]


def release(version):
    return tuple(map(int, version.split(".")))


@pytest.mark.parametrize("path", [*WORKFLOWS, *BLUEPRINTS], ids=lambda path: path.stem)
def test_every_node_names_its_pack(path):
    """The page offers to install a missing pack by these."""
    pack = project()["project"]
    for node in nodes_of(path):
        if node["type"] in NOTES:
            continue
        about = node["properties"]
        own = node["type"].startswith("Exemplar") or "proxyWidgets" in about or node["type"].count("-") == 4
        assert about["cnr_id"] == (pack["name"] if own else "comfy-core"), node["type"]
        if own:
            assert release("0.1.0") <= release(about["ver"]) <= release(pack["version"])
        else:
            assert release(about["ver"]) >= release("0.28.0")


def test_ids_are_their_own():
    ids = [load(path)["id"] for path in (*WORKFLOWS, *BLUEPRINTS)]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_can_be_understood(path):
    """Its name is all that the page shows; its note says what to look at and where to go on."""
    assert re.fullmatch(r"[A-Z][\w ,.()-]+", path.stem) and "_" not in path.stem
    assert path.with_suffix(".jpg").is_file()
    (note,) = [node for node in load(path)["nodes"] if node["type"] == "MarkdownNote"]
    (text,) = note["widgets_values"]
    assert text.startswith("## ") and "Press **Run**" in text


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_the_page_offers_what_is_missing(path):
    """Where a node names a checkpoint, it says whence that comes, by which the page offers the download."""
    for node in nodes_of(path):
        models = node["properties"].get("models", [])
        if node["type"] == "CheckpointLoaderSimple":
            assert [model["name"] for model in models] == node["widgets_values"]
        for model in models:
            assert model["url"].startswith("https://huggingface.co/") and model["url"].endswith("/" + model["name"])
            assert model["directory"] == "checkpoints"


def test_the_blueprint_has_the_widgets_of_exemplar_colorize():
    """What one tunes, by its names and in its order, on auto; and sockets alone beside that."""
    (path,) = BLUEPRINTS
    (subgraph,) = load(path)["definitions"]["subgraphs"]
    (outside,) = load(path)["nodes"]
    (settings,) = [node for node in subgraph["nodes"] if node["type"] == "ExemplarStageSettings"]
    widgets = [slot["name"] for slot in settings["inputs"] if "widget" in slot]
    assert [slot["name"] for slot in outside["inputs"] if "widget" in slot] == widgets
    assert outside["widgets_values"] == settings["widgets_values"] == [-1] * len(widgets)
    whole = [item.id for item in read()["ExemplarColorize"].inputs]
    assert widgets == [name for name in whole if name in widgets] and {"guidance", "depth", "resolution"} < set(widgets)
    assert [slot["name"] for slot in outside["inputs"] if "widget" not in slot] == [
        *("model", "vae", "conditioning", "image", "reference")
    ]
    # each link's two ends name it, and each input of the blueprint goes somewhere
    ends = {link["id"]: link for link in subgraph["links"]}
    nodes = {node["id"]: node for node in subgraph["nodes"]}
    for link in ends.values():
        if link["target_id"] in nodes:
            assert nodes[link["target_id"]]["inputs"][link["target_slot"]]["link"] == link["id"]
        if link["origin_id"] in nodes:
            assert link["id"] in nodes[link["origin_id"]]["outputs"][link["origin_slot"]]["links"]
    for at, slot in enumerate(subgraph["inputs"]):
        found = [link["id"] for link in ends.values() if (link["origin_id"], link["origin_slot"]) == (-10, at)]
        assert found == slot["linkIds"] and found


@pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda path: path.stem)
def test_a_blueprint_is_described(path):
    (subgraph,) = load(path)["definitions"]["subgraphs"]
    assert subgraph["name"] == path.stem == load(path)["nodes"][0]["title"]
    assert subgraph["category"].startswith("exemplar") and len(subgraph["description"]) > 40
