"""The templates that color a photograph of one's own, through a real ComfyUI server and its own Load Checkpoint."""

import os

import pytest
import torch
from PIL import Image

from comfyui_exemplar.color import rgb_to_lab
from comfyui_exemplar.files.pictures import read_photograph

from ..fixtures.stock_checkpoint import write_stock_checkpoint
from .server import load_workflow, needs_comfyui, only, to_prompt
from .workflows import chroma, demo_picture

needs_comfyui()

STROKES = "Old photograph, with strokes"
SD15, SDXL, EMBEDDED = "Old photograph (SD 1.5)", "Old photograph (SDXL)", "Old photograph (no download)"
PHOTOGRAPH, REFERENCE = "The photograph", "The reference, in color"


@pytest.fixture(scope="module")
def checkpoints(server):
    """One checkpoint under all the names that the templates choose, SDXL's too: the graph is what is tried."""
    folder = server.base / "models" / "checkpoints"
    write_stock_checkpoint(folder / "first.safetensors")
    for template in (SD15, SDXL):
        os.link(folder / "first.safetensors", folder / chosen(template))
    yield folder
    for path in folder.iterdir():
        path.unlink()


@pytest.fixture(scope="module")
def pictures(server):
    """A gray photograph that its file says to turn, at 300 dpi, and a reference of another size."""
    gray = Image.fromarray((demo_picture("photo-gray")[0] * 255).round().byte().numpy()).convert("L")
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "A camera"
    gray.rotate(90, expand=True).save(server.base / "input" / "mine.png", exif=exif, dpi=(300, 300))
    reference = Image.fromarray((demo_picture("photo-reference")[0] * 255).round().byte().numpy())
    reference.crop((0, 0, 300, 280)).save(server.base / "input" / "reference.png")
    painted = gray.convert("RGB")
    painted.paste((40, 80, 200), (130, 110, 150, 130))  # in an eye
    painted.save(server.base / "input" / "painted.png")
    return {PHOTOGRAPH: "mine.png", REFERENCE: "reference.png"}


def chosen(template: str) -> str:
    (loader,) = [node for node in load_workflow(template)["nodes"] if node["type"] == "CheckpointLoaderSimple"]
    return loader["widgets_values"][0]


def colored(server, template: str, pictures: dict[str, str], woken: bool = False, **settings):
    """What Save Photograph writes after files are chosen, and perhaps muted nodes woken and some widgets turned."""
    workflow = load_workflow(template)
    for node in workflow["nodes"]:
        node["mode"] = 0 if woken else node["mode"]
    prompt = to_prompt(workflow)
    for node in workflow["nodes"]:
        if node.get("title") in pictures and str(node["id"]) in prompt:
            prompt[str(node["id"])]["inputs"]["image"] = pictures[node["title"]]
    if settings:
        prompt[only(prompt, "ExemplarColorize")]["inputs"].update(settings)
    run = server.run(prompt)
    assert run.status == "success", run.error
    (path,) = run.files[only(prompt, "ExemplarSavePhotograph")]
    return read_photograph(path)


def is_the_photograph(made, gray):
    """Size, lightness and what the file said are the photograph's; only color is new."""
    assert made.images.shape == gray.shape and (made.facts.format, made.facts.bits) == ("PNG", 16)
    assert made.facts.resolution == pytest.approx((300, 300), abs=0.1) and b"A camera" in made.facts.exif
    lightness = [rgb_to_lab(each)[..., 0] for each in (made.images, gray)]
    assert float((lightness[0] - lightness[1]).abs().max()) < 0.02  # 8 bits alone would be 0.2


@pytest.mark.parametrize("method", ["attention", "memory"])
def test_nothing_to_download(server, pictures, method):
    made = colored(server, EMBEDDED, pictures, method=method)
    is_the_photograph(made, demo_picture("photo-gray"))
    # a tabby by a tabby: warm, and as full of color as about half the reference or more
    reference = demo_picture("photo-reference")
    assert chroma(made.images) > 0.5 * chroma(reference)
    assert float(rgb_to_lab(made.images)[..., 1:].mean((0, 1, 2)).min()) > 3


@pytest.mark.parametrize("method", ["attention", "memory"])
@pytest.mark.parametrize("template", [SD15, SDXL])
def test_a_checkpoint(server, checkpoints, pictures, template, method):
    """Numbers are random, so nothing is said of the colors but that there are some."""
    made = colored(server, template, pictures, method=method, resolution=128, depth=2, passes=1)
    is_the_photograph(made, demo_picture("photo-gray"))
    assert chroma(made.images) > 0.5 and bool(torch.isfinite(made.images).all())


def test_strokes_painted_on_a_copy(server, pictures):
    """The group is muted at first; woken, it colors the eye, and leaves what is far from it nearly as it was."""
    chosen = {PHOTOGRAPH: "mine.png", "The photograph, painted on": "painted.png"}
    chosen |= {"The first reference": "reference.png", "The second reference": "reference.png"}
    plain, stroked = (colored(server, STROKES, chosen, woken=woken) for woken in (False, True))
    for made in (plain, stroked):
        is_the_photograph(made, demo_picture("photo-gray"))
    before, after = (rgb_to_lab(made.images)[0, ..., 1:] for made in (plain, stroked))
    assert float(before[112:128, 132:148, 1].mean()) > 3 and float(after[112:128, 132:148, 1].mean()) < -10
    assert float((after - before)[220:, 300:].abs().mean()) < 4 < chroma(plain.images)


@pytest.mark.parametrize("template", [EMBEDDED, STROKES])
def test_the_first_run_before_anything_is_chosen(server, template):
    """ComfyUI's own example picture stands in all places."""
    made = colored(server, template, {})
    assert made.images.shape == (1, 768, 768, 3) and chroma(made.images) > 5


def test_they_are_one_graph():
    """So what is seen with the embedded model holds of the others: they differ in loader, note and name of results."""
    names_or_says = ("ExemplarSavePhotograph", "MarkdownNote")

    def graph(template):
        workflow = load_workflow(template)
        loader = min(node["id"] for node in workflow["nodes"] if "Load" in node["type"] and not node.get("title"))
        nodes = [
            (node["id"], node["type"], node["pos"], node["type"] in names_or_says or node.get("widgets_values"))
            for node in workflow["nodes"]
            if node["id"] != loader
        ]
        return nodes, workflow["links"], workflow["groups"], workflow["extra"]["linearData"]

    assert graph(SD15) == graph(SDXL) == graph(EMBEDDED)
