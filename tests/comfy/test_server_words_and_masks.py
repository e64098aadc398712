"""The workflow of words and masks in a real ComfyUI server: where a mask is, its word's color is."""

import numpy as np
import pytest
import torch
from PIL import Image

from comfyui_exemplar.color import luminance, rgb_to_lab
from comfyui_exemplar.files.pictures import load_picture

from .server import PACK, ROOT, check_inputs, load_workflow, needs_comfyui, only, to_prompt
from .workflows import WORDS_AND_MASKS

needs_comfyui()


@pytest.fixture(scope="module")
def things():
    """(apple, umbrella) of the example picture: where it is darker than its ground, left and right."""
    dark = luminance(load_picture(ROOT / "demo" / "pictures" / "words-gray.png"))[0] < 90
    right = torch.zeros_like(dark)
    right[:, dark.shape[1] // 2 :] = True
    return dark & ~right, dark & right


@pytest.fixture
def prompt():
    made = to_prompt(load_workflow(WORDS_AND_MASKS))
    made[only(made, "KSampler")]["inputs"]["steps"] = 8
    return made


def colors(server, prompt, things):
    """Mean (a, b) of apple and umbrella in what the workflow saves."""
    run = server.run(prompt)
    assert run.status == "success", run.error
    with Image.open(run.files[only(prompt, "SaveImage")][0]) as file:
        found = torch.from_numpy(np.asarray(file.convert("RGB"), dtype=np.float32) / 255)[None]
    lab = rgb_to_lab(found)[0]
    return [lab[where][:, 1:].mean(0).tolist() for where in things]


def instances(prompt):
    return [body["inputs"] for body in prompt.values() if body["class_type"] == "ExemplarLCADInstances"]


def test_template_and_nodes(server):
    assert WORDS_AND_MASKS in server.get("/workflow_templates")[PACK]
    thumbnail = server.raw(f"/api/workflow_templates/{PACK}/{WORDS_AND_MASKS}.jpg")
    assert thumbnail.startswith(b"\xff\xd8") and len(thumbnail) <= 100_000
    info = server.get("/object_info")
    workflow = load_workflow(WORDS_AND_MASKS)
    used = {node["type"] for node in workflow["nodes"]}
    assert used >= {"ExemplarLCADInstances", "ExemplarLoadCLIPSeg", "ExemplarReferringMask"}
    for node in workflow["nodes"]:
        node["mode"] = 0  # the muted ones too
    for node, body in to_prompt(workflow).items():
        check_inputs(info, node, body)


def exchange_phrases(prompt):
    """Each phrase in the mask of the other thing."""
    one, other = instances(prompt)
    one["phrases"], other["phrases"] = other["phrases"], one["phrases"]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_thing_has_the_color_of_its_words(server, prompt, things, seed):
    """Also where the prompt alone makes half of the umbrella red, as with the workflow's own seed."""
    prompt[only(prompt, "KSampler")]["inputs"]["seed"] = seed
    apple, umbrella = colors(server, prompt, things)
    assert apple[0] > 30 and apple[1] > -5, f"the apple is not red: {apple}"
    assert umbrella[1] < -20 and umbrella[0] < 25, f"the umbrella is not blue: {umbrella}"


def test_masks_say_where_words_are(server, prompt, things):
    """The prompt makes the apple red and the umbrella blue; the masks exchange them."""
    prompt[only(prompt, "KSampler")]["inputs"]["seed"] = 0
    exchange_phrases(prompt)
    apple, umbrella = colors(server, prompt, things)
    assert umbrella[0] > 30 and umbrella[1] > -5, f"the umbrella is not red: {umbrella}"
    assert apple[1] < -20 and apple[0] < 25, f"the apple is not blue: {apple}"
    for inputs in instances(prompt):
        inputs["strength"] = 0.0
    apple, umbrella = colors(server, prompt, things)
    assert apple[0] > 30 and apple[1] > -5 and umbrella[1] < -20


def test_the_published_step_is_hardly_seen(server, prompt, things):
    for inputs in instances(prompt):
        inputs.update(step="official", schedule="official")
    published = colors(server, prompt, things)
    for inputs in instances(prompt):
        inputs["strength"] = 0.0
    plain = colors(server, prompt, things)
    assert np.abs(np.array(published) - np.array(plain)).max() < 1


def test_wrong_phrase_is_named(server, prompt):
    instances(prompt)[0]["phrases"] = "green"
    run = server.run(prompt)
    assert run.status == "error"
    assert "The prompt 'red apple, blue umbrella' does not contain 'green'" in run.error


def test_missing_network_is_said(server):
    workflow = load_workflow(WORDS_AND_MASKS)
    for node in workflow["nodes"]:
        node["mode"] = 0
    run = server.run(to_prompt(workflow))
    assert run.status == "error" and "There is no 'clipseg-rd64-refined' in models/clipseg" in run.error
