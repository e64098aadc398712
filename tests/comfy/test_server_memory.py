"""Color memories in a real ComfyUI server: the example workflow, and what a new stroke runs."""

import torch

from comfyui_exemplar.color import ab_error, rgb_to_lab
from comfyui_exemplar.files.pictures import load_picture

from .server import load_workflow, needs_comfyui, only, to_prompt
from .workflows import MEMORY, demo_picture, saved

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
