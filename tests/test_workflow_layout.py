"""How the example workflows lie on the canvas: nothing covers anything else, also while previews are shown."""

import json
import math
import re
from itertools import combinations, pairwise

import pytest

from .test_architecture import ROOT

WORKFLOWS = sorted((ROOT / "example_workflows").glob("*.json"))

each = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)

#: Height of a node's title, which lies above the node's position, in pixels of the canvas at 100 %.
TITLE = 30

#: What a live preview adds to a node's height: 212 to 220 on the classic canvas, 248 with Nodes 2.0 (front end 1.49.6).
LIVE = 250
SHOW_LIVE = {
    "KSampler",
    "SamplerCustomAdvanced",
    "ExemplarColorize",
    "ExemplarConceptInversion",
    "ExemplarDDIMInversion",
    "ExemplarMatchColors",
    "ExemplarMemoryColorize",
    "ExemplarPivotInversion",
    "ExemplarSteadyColor",
    "ExemplarTransferColors",
    "ExemplarTranslate",
}

#: What nodes say below their widgets: Transfer Colors three lines beside the preview, the others two.
WORDS = {
    "ExemplarTransferColors": 80,
    "ExemplarColorMemory": 60,
    "ExemplarSaveInversion": 60,
    "ExemplarSaveMemory": 60,
}

#: Wires that cross each other, for each wire of the workflow.
CROSSINGS = 1.2


def load(path):
    return json.loads(path.read_text("utf-8"))


def is_note(node):
    return node["type"] == "MarkdownNote"


def rectangle(node):
    """(left, top, right, bottom) of a node with its title, and with the preview that it will show."""
    (x, y), (width, height) = node["pos"], node["size"]
    more = WORDS.get(node["type"], 0) + (LIVE if node["type"] in SHOW_LIVE else 0)
    return x, y - TITLE, x + width, y + height + more


def box(group):
    x, y, width, height = group["bounding"]
    return x, y, x + width, y + height


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def least_height(node):
    """What a node's rows need on the classic canvas: sockets, then widgets."""
    inputs = node.get("inputs", [])
    sockets = max(sum("widget" not in slot for slot in inputs), len(node.get("outputs", [])))
    return 20 * sockets + 24 * sum("widget" in slot for slot in inputs)


def text_height(text, width):
    """Height of a Markdown text in a note at 100 %, fitted to what Nodes 2.0 needs (10 pixel type) within 16 pixels."""
    height = -8
    for line in filter(None, text.splitlines()):
        if line.startswith("#"):
            height += 70 if line.startswith("## ") else 60
            continue
        item = re.match(r"(\*|\d+\.) ", line)
        letters = len(re.sub(r"[*`]", "", line))
        height += 15 * math.ceil(letters * 5.1 / (width - (48 if item else 24))) + (9 if item else 4)
    return height


def wires(workflow):
    """Each piece of a link as (nodes at the link's ends, point, point); the page draws curves between the same points.

    Links that run through the same two reroutes are drawn as one, so that piece is given once.
    """
    nodes = {node["id"]: node for node in workflow["nodes"]}
    reroutes = {point["id"]: point for point in workflow["extra"].get("reroutes", [])}
    last = {link["id"]: link["parentId"] for link in workflow["extra"].get("linkExtensions", [])}
    drawn = {}
    for key, source, output, target, place, _ in workflow["links"]:
        start, end = nodes[source], nodes[target]
        rows = [slot for slot in end["inputs"] if "widget" not in slot]
        row = rows.index(end["inputs"][place]) if end["inputs"][place] in rows else len(rows)
        points = [(end["pos"][0], end["pos"][1] + 14 + 20 * row)]
        at = last.get(key)
        while at is not None:
            points.append(tuple(reroutes[at]["pos"]))
            at = reroutes[at].get("parentId")
        points.append((start["pos"][0] + start["size"][0], start["pos"][1] + 14 + 20 * output))
        for piece in pairwise(reversed(points)):
            drawn.setdefault(piece, set()).update((source, target))
    for piece, ends in drawn.items():
        yield ends, *piece


def crosses(one, other):
    def side(a, b, c):
        return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])

    (ends, a, b), (others, c, d) = one, other
    return not ends & others and side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0


@each
def test_no_node_covers_another(path):
    for one, other in combinations(load(path)["nodes"], 2):
        assert not overlap(rectangle(one), rectangle(other)), [(n["id"], n["type"]) for n in (one, other)]


@each
def test_nodes_have_room_for_their_rows(path):
    for node in load(path)["nodes"]:
        assert node["size"][1] >= least_height(node), (node["id"], node["type"])


@each
def test_every_node_lies_in_a_group(path):
    workflow = load(path)
    for one, other in combinations(workflow["groups"], 2):
        assert not overlap(box(one), box(other)), (one["title"], other["title"])
    for group in workflow["groups"]:
        # the title is drawn at 24 pixels
        assert group["title"] and 12 * len(group["title"]) < group["bounding"][2], group["title"]
    for node in workflow["nodes"]:
        left, top, right, bottom = rectangle(node)
        within = [
            a <= left and b + TITLE <= top and right <= c and bottom <= d for a, b, c, d in map(box, workflow["groups"])
        ]
        assert sum(within) == (not is_note(node)), (node["id"], node["type"])


@each
def test_few_wires_cross(path):
    workflow = load(path)
    drawn = list(wires(workflow))
    assert sum(crosses(*pair) for pair in combinations(drawn, 2)) <= CROSSINGS * len(workflow["links"])


@each
def test_the_note_can_be_read_without_scrolling(path):
    (note,) = filter(is_note, load(path)["nodes"])
    width, height = note["size"]
    assert text_height(note["widgets_values"][0], width) <= height + 16


@each
def test_a_run_gives_what_the_thumbnail_shows(path):
    for node in load(path)["nodes"]:
        assert not {"randomize", "increment", "decrement"} & set(map(str, node.get("widgets_values") or [])), node["id"]


@each
def test_a_gray_picture_is_shown(path):
    """What goes into a result is seen beside it; loaders of the user's own files show them by themselves."""
    workflow = load(path)
    shown = {
        link[1]
        for link in workflow["links"]
        if next(n for n in workflow["nodes"] if n["id"] == link[3])["type"] == "PreviewImage"
    }
    types = {node["id"]: node["type"] for node in workflow["nodes"]}
    pictures = {key for key, kind in types.items() if kind == "ExemplarLoadDemoPictures"}
    gray = {link[1] for link in workflow["links"] if link[1] in pictures and link[2] == 0}
    assert gray <= shown


def test_saved_pictures_are_named_alike():
    """One folder, one name for each result, in small letters."""
    found = []
    for path in WORKFLOWS:
        for node in load(path)["nodes"]:
            if node["type"] in ("SaveImage", "ExemplarSavePhotograph"):
                found.append(node["widgets_values"][0])
    assert all(re.fullmatch(r"exemplar/[a-z]+(_[a-z]+)*", prefix) for prefix in found), found
    assert len(set(found)) == len(found)


APPS = [path for path in WORKFLOWS if "linearData" in load(path).get("extra", {})]


@pytest.mark.parametrize("path", APPS, ids=lambda path: path.stem)
def test_an_app_shows_what_is_there(path):
    """App mode's inputs are widgets of nodes, its outputs are nodes that show pictures."""
    workflow = load(path)
    nodes = {str(node["id"]): node for node in workflow["nodes"]}
    app = workflow["extra"]["linearData"]
    for node, widget in app["inputs"]:
        assert widget in [slot["name"] for slot in nodes[node]["inputs"] if "widget" in slot]
    assert app["outputs"]
    for node in app["outputs"]:
        assert nodes[node]["type"] in ("SaveImage", "PreviewImage", "ExemplarSavePhotograph")


def test_simple_workflows_are_apps():
    assert {path.stem for path in APPS} >= {
        "Automatic color (DDColor)",
        "Color by example",
        "Color by words (L-CAD)",
        "Color memory, two references and strokes",
        "Match colors by statistics",
        "Old photograph, colors from an edit",
    }
