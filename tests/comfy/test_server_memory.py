"""Several references in a real ComfyUI server, by color memories and by attention: the example workflows, and what runs
again after a change."""

import torch

from comfyui_exemplar.color import ab_error, rgb_to_lab
from comfyui_exemplar.files.pictures import load_picture

from .server import MUTED, load_workflow, needs_comfyui, only, to_prompt
from .workflows import MEMORY, PALETTE, TWO_REFERENCES, chroma, demo_picture, saved

needs_comfyui()


def chroma_near(image, x, y):
    """Mean a and b of a small place, by its middle."""
    return rgb_to_lab(image)[0, y - 4 : y + 4, x - 4 : x + 4, 1:].mean((0, 1))


def test_two_references_and_a_stroke(server):
    prompt = to_prompt(load_workflow(MEMORY))
    gray, truth = demo_picture("scene-gray"), demo_picture("scene-truth")
    first = saved(server, prompt)
    assert first.shape == gray.shape
    assert float((rgb_to_lab(first)[..., 0] - rgb_to_lab(gray)[..., 0]).abs().max()) < 1
    assert float(ab_error(first, truth)) < float(ab_error(gray, truth))
    green = chroma_near(first, 86, 214)
    assert green[0] < -15 < 15 < green[1], "the stroke"
    # what has another color, or stands elsewhere, runs no model again
    strokes = prompt[only(prompt, "EmptyImage")]["inputs"]
    strokes["color"] = 0xC03030
    run = server.run(prompt)
    assert run.status == "success", run.error
    looking = [only(prompt, "ExemplarColorFeatures")]
    looking += [node for node, body in prompt.items() if body["class_type"] == "ExemplarColorMemory"]
    assert len(looking) == 3 and set(looking) <= set(run.cached)
    (path,) = run.files[only(prompt, "SaveImage")]
    second = load_picture(path)
    assert chroma_near(second, 86, 214)[0] > 20
    # the bulb is where it was, and as it was
    assert float((second - first)[:, 150:, 330:].abs().max()) <= 2 / 255
    assert not torch.equal(first, second)


def test_a_palette_and_the_next_page_from_the_file(server):
    workflow = load_workflow(PALETTE)
    gray = demo_picture("scene-gray")
    bounded = saved(server, to_prompt(workflow))
    assert bounded.shape == gray.shape and chroma(bounded) > 2
    # white, gold and blue: nothing of the violet that the reference has
    berry = chroma_near(bounded, 80, 210)
    assert berry[0] < 8 and berry[1] < -15
    (file,) = (server.base / "output" / "color_memories").glob("palette_*.safetensors")
    muted = [node for node in workflow["nodes"] if node["mode"] == MUTED]
    assert {node["type"] for node in muted} >= {"ExemplarLoadMemory", "ExemplarMemoryColorize"}
    for node in muted:
        node["mode"] = 0
    prompt = to_prompt(workflow)
    assert prompt[only(prompt, "ExemplarLoadMemory")]["inputs"]["memory_name"] == f"{file.name} [output]"
    run = server.run(prompt)
    assert run.status == "success", run.error
    (preview,) = [n["id"] for n in muted if n["type"] == "PreviewImage"]
    other = load_picture(run.files[str(preview)][0])
    assert float(ab_error(other.flip(2), bounded)) < float(ab_error(gray, bounded)) / 2


def test_two_references_with_masks_by_attention(server):
    """Each gives the color of what its mask leaves: yellow bulb and red berries, then the other way round."""
    prompt = to_prompt(load_workflow(TWO_REFERENCES))
    gray = demo_picture("scene-gray")
    (bulb, berry) = ((405, 175), (80, 215))
    first = saved(server, prompt)
    assert first.shape == gray.shape
    assert float((rgb_to_lab(first)[..., 0] - rgb_to_lab(gray)[..., 0]).abs().max()) < 1
    a, b = chroma_near(first, *bulb)
    assert b > 25 and b > a + 15, "yellow"
    a, b = chroma_near(first, *berry)
    assert a > 25 and b > 0, "red"
    # one heat map a reference, and the bulb looks at the first alone
    shown = server.run(prompt).files[titled(prompt, "Heat map, one for each reference")]
    glow = [float((one.amax(-1) - one.amin(-1))[0, :, one.shape[2] // 2 :].max()) for one in map(load_picture, shown)]
    assert len(glow) == 2 and glow[0] > 0.3 > 0.05 > glow[1]
    both = prompt[only(prompt, "BatchMasksNode")]["inputs"]
    both["masks.mask0"], both["masks.mask1"] = both["masks.mask1"], both["masks.mask0"]
    turned = saved(server, prompt)
    a, b = chroma_near(turned, *bulb)
    assert a > 10 and a > b, "red"
    a, b = chroma_near(turned, *berry)
    assert a > 5 and b < -15, "violet"


def titled(prompt, title):
    """The node that has a title in the workflow."""
    (found,) = [node["id"] for node in load_workflow(TWO_REFERENCES)["nodes"] if node.get("title") == title]
    assert str(found) in prompt
    return str(found)
