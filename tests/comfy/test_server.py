"""The pack in a real ComfyUI server: its nodes, help pages, languages, workflows and blueprint."""

import json

import pytest

from .server import PACK, ROOT, UPLOAD, check_inputs, load_workflow, needs_comfyui, to_prompt
from .workflows import NODES, WORKFLOWS, chroma, saved

needs_comfyui()


def test_all_nodes_are_registered(server, object_info):
    log = server.log()
    assert f"(IMPORT FAILED): {server.base}/custom_nodes/{PACK}" not in log
    assert {name for name in object_info if name.startswith("Exemplar")} == NODES


def test_every_node_says_what_it_is(object_info):
    for name in NODES:
        info = object_info[name]
        assert info["display_name"] and info["description"] and info["search_aliases"], name
        assert info["category"].split("/")[0] == "exemplar", name
        assert info["python_module"] == f"custom_nodes.{PACK}", name
        assert len(info["output"]) == len(info["output_name"]) == len(info["output_tooltips"]), name
        for inputs in info["input"].values():
            for key, (_, *options) in inputs.items():
                if options and "default" in options[0]:  # widgets need an explanation; most sockets explain themselves
                    assert options[0].get("tooltip"), f"{name}.{key}"


@pytest.mark.parametrize("page", sorted(NODES))
def test_help_pages_are_served(server, page):
    # the page falls back from docs/ID/LANGUAGE.md to docs/ID.md; this one it always needs
    assert len(server.raw(f"/extensions/{PACK}/docs/{page}.md")) > 200


@pytest.mark.parametrize("language", ["zh", "ja"])
def test_languages_are_served(server, language):
    texts = server.get("/api/i18n")[language]["nodeDefs"]
    assert set(texts) >= NODES
    assert texts["ExemplarColorize"]["display_name"] != "Exemplar Colorize"


@pytest.mark.parametrize("name", WORKFLOWS)
def test_templates_are_listed_with_thumbnails(server, name):
    assert name in server.get("/workflow_templates")[PACK]
    assert json.loads(server.raw(f"/api/workflow_templates/{PACK}/{name}.json")) == load_workflow(name)
    thumbnail = server.raw(f"/api/workflow_templates/{PACK}/{name}.jpg")
    assert thumbnail.startswith(b"\xff\xd8") and len(thumbnail) <= 100_000


def test_workflows_use_every_node():
    used = {node["type"] for name in WORKFLOWS for node in load_workflow(name)["nodes"]}  # muted ones too
    for path in (ROOT / "subgraphs").glob("*.json"):
        (subgraph,) = json.loads(path.read_text("utf-8"))["definitions"]["subgraphs"]
        used |= {node["type"] for node in subgraph["nodes"]}
    assert used >= NODES


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflow_fits_the_nodes(object_info, name):
    """Saved values go to widgets by position, so a node that gains or moves an input breaks saved workflows
    silently."""
    workflow = load_workflow(name)
    for node_id, body in to_prompt(workflow).items():
        check_inputs(object_info, node_id, body)
    for node in workflow["nodes"]:
        if node["type"].startswith("Exemplar"):
            named = dict(
                zip([s["name"] for s in node["inputs"] if "widget" in s], node.get("widgets_values", []), strict=True)
            )
            assert named == node.get("widgets_values_named", {})
            order = [*object_info[node["type"]]["input_order"].get("required", ())]
            order += object_info[node["type"]]["input_order"].get("optional", ())
            buttons = {slot["name"] for slot in node["inputs"] if slot["type"] == UPLOAD}
            assert [key for key in named if key not in buttons] == [key for key in order if key in named]


def test_blueprint_is_listed_and_fits_the_nodes(server, object_info):
    listed = server.get("/global_subgraphs")
    (found,) = [key for key, entry in listed.items() if entry["info"]["node_pack"] == f"custom_nodes.{PACK}"]
    blueprint = json.loads(server.get(f"/global_subgraphs/{found}")["data"])
    (path,) = (ROOT / "subgraphs").glob("*.json")
    assert listed[found]["name"] == path.stem and blueprint == json.loads(path.read_text("utf-8"))
    (subgraph,) = blueprint["definitions"]["subgraphs"]
    (outside,) = blueprint["nodes"]
    assert outside["type"] == subgraph["id"]
    assert [slot["name"] for slot in outside["inputs"]] == [slot["name"] for slot in subgraph["inputs"]]
    # the page's two ways to write links down: lists outside, objects with negative ids for the edge inside
    links = [[link[key] for key in ("id", "origin_id", "origin_slot")] for link in subgraph["links"]]
    prompt = to_prompt({"nodes": subgraph["nodes"], "links": links})
    for node_id, body in prompt.items():
        check_inputs(object_info, node_id, body)
    given = {slot["name"]: slot["type"] for slot in subgraph["inputs"]}
    for body in prompt.values():
        specs = object_info[body["class_type"]]["input"]
        for key, value in body["inputs"].items():
            if isinstance(value, list) and value[0] == "-10":
                (kind, *_) = {**specs["required"], **specs.get("optional", {})}[key]
                assert kind == list(given.values())[value[1]], key


def test_blueprint_colors_as_exemplar_colorize_does(server, object_info):
    """Load Embedded Model -> blueprint -> Run, with nothing set: the picture of the whole node, to a step of 8 bits.

    The stages invert one picture after the other, the whole node all at once, which changes the last digits only.
    """
    (path,) = (ROOT / "subgraphs").glob("*.json")
    blueprint = json.loads(path.read_text("utf-8"))
    (subgraph,) = blueprint["definitions"]["subgraphs"]
    links = [[link[key] for key in ("id", "origin_id", "origin_slot")] for link in subgraph["links"]]
    prompt = to_prompt({"nodes": subgraph["nodes"], "links": links})
    widgets = [slot["name"] for slot in subgraph["inputs"] if slot["type"] in ("INT", "FLOAT")]
    outside = {
        "image": ["pictures", 0],
        "reference": ["pictures", 1],
        "vae": ["model", 2],
        "model": ["model", 0],
        "conditioning": ["model", 3],
        **dict(zip(widgets, blueprint["nodes"][0]["widgets_values"], strict=True)),
    }
    names = [slot["name"] for slot in subgraph["inputs"]]
    for body in prompt.values():
        for key, value in body["inputs"].items():
            if isinstance(value, list) and value[0] == "-10":
                body["inputs"][key] = outside[names[value[1]]]
    (end,) = [link for link in subgraph["links"] if link["target_id"] == -20]
    prompt["model"] = {"class_type": "ExemplarLoadDemoModel", "inputs": {}}
    prompt["pictures"] = {"class_type": "ExemplarLoadDemoPictures", "inputs": {"pictures": "drawing"}}
    images = [str(end["origin_id"]), end["origin_slot"]]
    prompt["save"] = {"class_type": "SaveImage", "inputs": {"images": images, "filename_prefix": "blueprint"}}
    made = saved(server, prompt)
    sockets = {name: link for name, link in outside.items() if isinstance(link, list)}
    whole = {name: prompt[name] for name in ("model", "pictures")}
    left = object_info["ExemplarColorize"]["input"]["required"].items()
    widgets = {name: more[0]["default"] for name, (_, *more) in left if more and "default" in more[0]}
    whole["color"] = {"class_type": "ExemplarColorize", "inputs": {**widgets, **sockets}}
    whole["save"] = {"class_type": "SaveImage", "inputs": {"images": ["color", 0], "filename_prefix": "whole"}}
    other = saved(server, whole)
    assert chroma(made) > 2 and made.shape == other.shape
    assert float((made - other).abs().max()) < 1.5 / 255 and float((made != other).float().mean()) < 1e-3
