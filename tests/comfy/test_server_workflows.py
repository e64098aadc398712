"""What the workflows make in a real ComfyUI server."""

import pytest
import torch

from comfyui_exemplar.color import ab_error, psnr, rgb_to_lab
from comfyui_exemplar.files.pictures import load_picture

from .server import load_workflow, needs_comfyui, only, to_prompt
from .workflows import (
    AUTOMATIC,
    COLORING,
    STEADY,
    TEXT_TO_IMAGE,
    WORDS,
    chroma,
    demo_picture,
    message,
    pictures_of,
    saved,
)

needs_comfyui()


def test_words_workflow_draws(server):
    """A red apple on white, four times, with stock nodes alone."""
    prompt = to_prompt(load_workflow(TEXT_TO_IMAGE))
    run = server.run(prompt)
    assert run.status == "success", run.error
    pictures = torch.cat([load_picture(path) for path in run.files[only(prompt, "SaveImage")]])
    assert pictures.shape == (4, 128, 128, 3)
    assert float(pictures[:, :6, :6].mean()) > 0.85
    red, green, blue = pictures[:, 48:96, 40:88].mean((0, 1, 2)).tolist()
    assert red > max(green, blue) + 0.2


@pytest.mark.parametrize("name", COLORING)
def test_workflow_colors_the_picture(server, name):
    result = saved(server, to_prompt(load_workflow(name)))
    gray, truth = demo_picture("drawing-gray"), demo_picture("drawing-truth")
    assert result.shape == gray.shape
    assert chroma(gray) < 0.1 < 2 < chroma(result)
    # nearer to the drawing's true colors than without any, and as light as the gray picture to within 8 bit
    assert psnr(result, truth) > psnr(gray, truth) + 1
    assert float((rgb_to_lab(result)[..., 0] - rgb_to_lab(gray)[..., 0]).abs().max()) < 1


@pytest.mark.parametrize("pictures", ["scene", "photo"])
def test_other_pictures_keep_their_size(server, one_node, pictures):
    one_node[only(one_node, "ExemplarLoadDemoPictures")]["inputs"]["pictures"] = pictures
    result = saved(server, one_node)
    gray = demo_picture(f"{pictures}-gray")
    assert result.shape == gray.shape
    assert chroma(result) > chroma(gray) + 2


def automatic(server, prompt: dict) -> list[torch.Tensor]:
    """What the workflow of DDColor saves: colored with no reference, and blended."""
    run = server.run(prompt)
    assert run.status == "success", run.error
    return [load_picture(run.files[node][0]) for node, body in prompt.items() if body["class_type"] == "SaveImage"]


def test_automatic_color(server):
    results = automatic(server, to_prompt(load_workflow(AUTOMATIC)))
    gray, truth = demo_picture("scene-gray"), demo_picture("scene-truth")
    assert len(results) == 2 and not torch.equal(*results)
    for result in results:
        assert result.shape == gray.shape and chroma(result) > 2
        assert float((rgb_to_lab(result)[..., 0] - rgb_to_lab(gray)[..., 0]).abs().max()) < 1
        assert float(ab_error(result, truth)) < float(ab_error(gray, truth))


def test_automatic_color_by_a_file_of_the_user(server, ddcolor_file):
    prompt = to_prompt(load_workflow(AUTOMATIC))
    embedded, _ = automatic(server, prompt)
    prompt[only(prompt, "ExemplarLoadDDColor")]["inputs"]["model_name"] = "ddcolor_modelscope.pth"
    found, _ = automatic(server, prompt)
    assert found.shape == embedded.shape and chroma(found) > 2
    assert not torch.equal(found, embedded)


def test_color_from_words(server):
    prompt = to_prompt(load_workflow(WORDS))
    gray = demo_picture("words-gray")
    first = saved(server, prompt)
    assert first.shape == gray.shape and chroma(first) > 2
    assert float((rgb_to_lab(first)[..., 0] - rgb_to_lab(gray)[..., 0]).abs().max()) < 1
    (words,) = [node for node, body in prompt.items() if body["inputs"].get("text")]
    prompt[words]["inputs"]["text"] = "a green apple, a blue umbrella"
    run = server.run(prompt)
    assert run.status == "success" and only(prompt, "ExemplarLoadLCAD") in run.cached
    (path,) = run.files[only(prompt, "SaveImage")]
    # the left half has the apple: less of a, which is green to red
    redness = [float(rgb_to_lab(each[:, 80:, :128])[..., 1].mean()) for each in (first, load_picture(path))]
    assert redness[1] < redness[0] - 5


def test_words_without_the_gray_picture(server):
    prompt = to_prompt(load_workflow(WORDS))
    condition = only(prompt, "ExemplarLCADCondition")
    plain = prompt[condition]["inputs"]["positive"]
    for body in prompt.values():
        if body["class_type"] == "KSampler":
            body["inputs"]["positive"] = plain
    assert "expected those of L-CAD Condition; put it between" in message(server, prompt)


def test_steady_frames_change_about_half_as_much(server):
    """As the template's note says, whether OpenCV is there or not; and 0 shows them as they came."""
    prompt = to_prompt(load_workflow(STEADY))
    steady = pictures_of(server, prompt)
    prompt[only(prompt, "ExemplarSteadyColor")]["inputs"]["steadiness"] = 0
    unsteady = pictures_of(server, prompt)
    assert steady.shape == unsteady.shape == (12, *demo_picture("scene-gray").shape[1:])
    lab, before = rgb_to_lab(steady), rgb_to_lab(unsteady)
    assert float((lab[..., 0] - before[..., 0]).abs().mean()) < 0.5  # the grain stays

    def change(frames: torch.Tensor) -> float:
        return float(frames[..., 1:].diff(dim=0).norm(dim=-1).mean())

    assert change(before) > 1 and change(lab) < 0.6 * change(before)
    assert chroma(steady) > 0.9 * chroma(unsteady)  # not by fading
