"""Colors of edits and by statistics through a real ComfyUI server: the example workflows."""

import subprocess

import pytest
import torch

from comfyui_exemplar.color import ab_error, desaturate, rgb_to_lab
from comfyui_exemplar.files.pictures import load_picture, save_picture

from .server import comfyui_python, load_workflow, needs_comfyui, only, to_prompt
from .workflows import demo_picture

needs_comfyui()

#: ComfyUI does not bring OpenCV; without it the drift of these is not found.
needs_opencv = pytest.mark.skipif(
    subprocess.run([comfyui_python(), "-c", "import cv2"], capture_output=True).returncode != 0,
    reason="needs OpenCV in ComfyUI's Python",
)

DRIFTED, OLD = "Colors of a drifted edit, without any model", "Old photograph, colors from an edit"
STATISTICS = "Match colors by statistics"


def titled(name):
    """Title -> id of a workflow's nodes."""
    return {node["title"]: str(node["id"]) for node in load_workflow(name)["nodes"] if "title" in node}


def shown(server, prompt):
    """Node -> the picture that it shows or saves."""
    run = server.run(prompt)
    assert run.status == "success", run.error
    return {node: load_picture(files[-1]) for node, files in run.files.items()}


@needs_opencv
def test_a_drifted_edit_against_the_plain_merge(server):
    found, at = shown(server, to_prompt(load_workflow(DRIFTED))), titled(DRIFTED)
    truth = demo_picture("photo-reference")
    transferred, plain = found[at["Colors transferred"]], found[at["Plain merge"]]
    assert transferred.shape == plain.shape == truth.shape
    assert float((found[at["The true colors"]] - truth).abs().max()) < 0.01
    assert float((rgb_to_lab(transferred)[..., 0] - rgb_to_lab(truth)[..., 0]).abs().max()) < 1
    assert float(ab_error(transferred, truth)) < 0.5 * float(ab_error(plain, truth))
    sure = found[at["How sure"]][..., 0]
    assert float(sure[:, 200:255, 300:380].mean()) < 0.5 < float(sure[:, 40:160, 60:360].mean())


@needs_opencv
def test_an_old_photograph(server):
    truth = demo_picture("drawing-truth")
    gray = server.base / "input" / "old.png"
    edit = torch.nn.functional.interpolate(truth.movedim(-1, 1), (403, 403), mode="bicubic").clamp(0, 1)
    save_picture(desaturate(truth), gray)
    save_picture(edit[..., 12:396, 16:400].movedim(1, -1), server.base / "input" / "edit.png")
    prompt, at = to_prompt(load_workflow(OLD)), titled(OLD)
    prompt[at["The photograph"]]["inputs"]["image"] = "old.png"
    prompt[at["The edit"]]["inputs"]["image"] = "edit.png"
    made = shown(server, prompt)[only(prompt, "ExemplarSavePhotograph")]
    assert made.shape == truth.shape
    assert float((rgb_to_lab(made)[..., 0] - rgb_to_lab(load_picture(gray))[..., 0]).abs().max()) < 0.1  # 16 bits
    assert float(ab_error(made, truth)) < 2


def test_the_old_photograph_is_an_app():
    """What the page's App mode shows: widgets that are there, and a node that saves."""
    workflow = load_workflow(OLD)
    nodes = {str(node["id"]): node for node in workflow["nodes"]}
    app = workflow["extra"]["linearData"]
    for node, widget in app["inputs"]:
        assert widget in [slot["name"] for slot in nodes[node]["inputs"] if "widget" in slot]
    assert [nodes[node]["type"] for node in app["outputs"]] == ["ExemplarSavePhotograph"]


def test_a_gray_edit_is_refused(server):
    prompt, at = to_prompt(load_workflow(OLD)), titled(OLD)
    save_picture(desaturate(demo_picture("drawing-truth")), server.base / "input" / "gray.png")
    prompt[at["The edit"]]["inputs"]["image"] = "gray.png"
    run = server.run(prompt)
    assert run.status == "error" and run.node == only(prompt, "ExemplarTransferColors")
    assert "Transfer Colors: edited: found no color" in run.error


def test_colors_by_statistics(server):
    """Blue light over a piece of the reference: its colors come back, and its lightness where that is matched, too."""
    found, at = shown(server, to_prompt(load_workflow(STATISTICS))), titled(STATISTICS)
    truth, blue = found[at["What the piece was"]], found[at["In blue light"]]
    both, colors = found[at["Light and colors matched"]], found[at["Colors matched, lightness kept"]]
    assert float((both - truth).abs().mean()) < 0.3 * float((blue - truth).abs().mean())
    assert float(ab_error(colors, truth)) < 0.5 * float(ab_error(blue, truth))
    assert float((rgb_to_lab(colors)[..., 0] - rgb_to_lab(blue)[..., 0]).abs().max()) < 1
