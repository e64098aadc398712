"""What a real ComfyUI server says to mistakes: what was found, what was expected."""

import copy

import pytest

from .server import load_workflow, needs_comfyui, only, to_prompt
from .workflows import AUTOMATIC, COLORING, STYLE, chroma, inversions, message, saved

needs_comfyui()


@pytest.mark.parametrize("name", COLORING)
def test_depth_beyond_the_schedule_is_refused_at_once(server, name):
    prompt = to_prompt(load_workflow(name))
    for node in [node for node, body in prompt.items() if body["class_type"] == "PreviewImage"]:
        del prompt[node]  # ComfyUI refuses a prompt only when none of its outputs can be made
    for body in prompt.values():
        if "depth" in body["inputs"]:
            body["inputs"]["depth"] = 60
    status, text = server.refusal(prompt)
    assert status == 400
    assert "depth is 60" in text and "only 20 steps" in text


def test_inversions_of_different_depth(server, stages):
    stages[inversions(stages)["gray"]]["inputs"]["depth"] = 12
    text = message(server, stages)
    assert "expected the same levels as reference_inversion" in text
    assert "gray_inversion: found features at 12" in text and "reference_inversion, 4 from" in text
    assert "use the same steps" in text


def test_inversions_of_different_size(server, stages):
    role = inversions(stages)["gray"]
    encode = stages[stages[role]["inputs"]["latent"][0]]
    small = {
        "image": encode["inputs"]["pixels"],
        "upscale_method": "area",
        "width": 64,
        "height": 64,
        "crop": "disabled",
    }
    stages["other size"] = {"class_type": "ImageScale", "inputs": small}
    encode["inputs"]["pixels"] = ["other size", 0]
    text = message(server, stages)
    assert "tokens" in text and "same size" in text


def test_inversion_without_kept_features(server, stages):
    stages[inversions(stages)["reference"]]["inputs"]["model"] = [only(stages, "ExemplarLoadDemoModel"), 0]
    text = message(server, stages)
    assert "reference_inversion: found no attention features" in text and "Attention Capture" in text


def test_inversion_without_the_asked_layers(server, stages):
    for body in stages.values():
        if body["class_type"] == "ExemplarAttentionCapture":
            body["inputs"]["layers"] = "fine"
    text = message(server, stages)
    assert "kept" in text and "output." in text


def test_inversion_by_another_model(server, stages):
    stages["other"] = {"class_type": "TestOtherModel", "inputs": {}}
    stages[only(stages, "ExemplarDualAttentionColor")]["inputs"]["model"] = ["other", 0]
    text = message(server, stages)
    assert "input_inversion: found an inversion made with another model" in text
    assert "expected one of this model" in text and "invert the picture again" in text


def test_latent_of_another_size(server, stages):
    sampler = stages[only(stages, "SamplerCustomAdvanced")]["inputs"]
    stages["crop"] = {
        "class_type": "LatentCrop",
        "inputs": {"samples": sampler["latent_image"], "width": 128, "height": 64, "x": 0, "y": 0},
    }
    sampler["latent_image"] = ["crop", 0]
    text = message(server, stages)
    assert "latent: found one of 16 x 8, expected 32 x 32" in text


def test_levels_that_were_never_kept(server, stages):
    stages["levels"] = {"class_type": "ManualSigmas", "inputs": {"sigmas": "14.0, 12.0, 10.0"}}
    stages[only(stages, "SamplerCustomAdvanced")]["inputs"]["sigmas"] = ["levels", 0]
    text = message(server, stages)
    assert "sigmas: found 14.000 to 10.000, expected some from" in text
    assert "where attention was kept" in text and "sigmas output of DDIM Inversion" in text


def test_one_half_of_a_reference_pair(server, one_node):
    node = only(one_node, "ExemplarColorize")
    one_node["second"] = copy.deepcopy(one_node[node])
    one_node["second"]["inputs"]["reference_inversion"] = [node, 2]
    one_node[only(one_node, "SaveImage")]["inputs"]["images"] = ["second", 0]
    text = message(server, one_node)
    assert "both reference_inversion and gray_inversion" in text


def test_reference_of_another_depth(server, one_node):
    node = only(one_node, "ExemplarColorize")
    one_node["second"] = copy.deepcopy(one_node[node])
    one_node["second"]["inputs"].update(depth=9, reference_inversion=[node, 2], gray_inversion=[node, 3])
    one_node[only(one_node, "SaveImage")]["inputs"]["images"] = ["second", 0]
    text = message(server, one_node)
    assert "4 of 20" in text and "9 of 20" in text


def test_a_missing_deadiff_is_said_before_anything_runs(server):
    prompt = to_prompt(load_workflow(STYLE))
    for node in [node for node, body in prompt.items() if body["class_type"] == "PreviewImage"]:
        del prompt[node]
    prompt[only(prompt, "ExemplarLoadDEADiff")]["inputs"]["model_name"] = "deadiff_v1.ckpt"
    status, text = server.refusal(prompt)
    assert status == 400
    assert "no 'deadiff_v1.ckpt'" in text and "put it into models/deadiff" in text


def test_more_references_than_weights(server):
    prompt = to_prompt(load_workflow(STYLE))
    prompt[only(prompt, "ExemplarDEADiffEncode")]["inputs"]["weights"] = "1, 0.5"
    run = server.run(prompt)
    assert run.status == "error" and "for 1 reference(s), expected one for all" in str(run.error)


def test_a_missing_network_is_said_before_anything_runs(server):
    prompt = to_prompt(load_workflow(AUTOMATIC))
    for node in [node for node, body in prompt.items() if body["class_type"] == "PreviewImage"]:
        del prompt[node]
    prompt[only(prompt, "ExemplarLoadDDColor")]["inputs"]["model_name"] = "ddcolor_artistic.pth"
    status, text = server.refusal(prompt)
    assert status == 400
    assert "no 'ddcolor_artistic.pth'" in text and "put it into models/ddcolor" in text


def test_a_right_run_after_all_these(server, stages):
    assert chroma(saved(server, stages)) > 2
