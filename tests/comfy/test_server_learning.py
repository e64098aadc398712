"""Concept Inversion and Pivot Inversion in a real server, with stock nodes around them, and canceled in the middle."""

import time

import pytest
from safetensors import safe_open

from .server import needs_comfyui, only

needs_comfyui()

NAME = "learned-in-a-test"


@pytest.fixture
def prompt():
    """A concept learned, a picture's pivots found, the concept drawn from the picture's noise by the stock sampler."""
    learn = {
        "model": ["1", 0],
        "clip": ["1", 1],
        "vae": ["1", 2],
        "reference": ["2", 1],
        "name": NAME,
        "word": "flower",
        "vectors": 2,
        "updates": 2,
        "resolution": 32,
        "learning_rate": 0.0005,
        "accumulation": 2,
        "l1_weight": 1.0,
        "weight_decay": 0.01,
        "fit": "crop",
        "mirror": False,
        "learning_seed": 0,
        "sample_every": 0,
        "rows": 2,
        "gradient_checkpointing": False,
        "when_the_file_exists": "start over",
    }
    return {
        "1": {"class_type": "ExemplarLoadDemoModel", "inputs": {}},
        "2": {"class_type": "ExemplarLoadDemoPictures", "inputs": {"pictures": "drawing"}},
        "3": {"class_type": "ExemplarConceptInversion", "inputs": learn},
        "4": {
            "class_type": "ImageScale",
            "inputs": {"image": ["2", 1], "upscale_method": "area", "width": 64, "height": 64, "crop": "center"},
        },
        "5": {"class_type": "VAEEncode", "inputs": {"pixels": ["4", 0], "vae": ["1", 2]}},
        "6": {
            "class_type": "ExemplarDDIMInversion",
            "inputs": {
                "model": ["1", 0],
                "conditioning": ["1", 3],
                "latent": ["5", 0],
                "depth": 3,
                "steps": 3,
                "convention": "diffusers",
                "refinements": 0,
                "measure_round_trip": False,
            },
        },
        "7": {
            "class_type": "ExemplarPivotInversion",
            "inputs": {
                "model": ["1", 0],
                "conditioning": ["1", 3],
                "inversion": ["6", 0],
                "cfg": 7.5,
                "iterations": 2,
                "stop_below": 0.0,
                "learning_rate": 0.01,
                "variant": "official",
                "gradient_checkpointing": False,
            },
        },
        "8": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": ["3", 1]}},
        "9": {
            "class_type": "CFGGuider",
            "inputs": {"model": ["1", 0], "positive": ["8", 0], "negative": ["7", 1], "cfg": 7.5},
        },
        "10": {"class_type": "DisableNoise", "inputs": {}},
        "11": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
        "12": {
            "class_type": "SamplerCustomAdvanced",
            "inputs": {
                "noise": ["10", 0],
                "guider": ["9", 0],
                "sampler": ["11", 0],
                "sigmas": ["6", 2],
                "latent_image": ["6", 1],
            },
        },
        "13": {"class_type": "VAEDecode", "inputs": {"samples": ["12", 0], "vae": ["1", 2]}},
        "14": {"class_type": "SaveImage", "inputs": {"images": ["13", 0], "filename_prefix": "learned"}},
        "15": {"class_type": "PreviewImage", "inputs": {"images": ["7", 2]}},
        "16": {"class_type": "PreviewImage", "inputs": {"images": ["3", 2]}},
    }


def embedding(server):
    return server.base / "models" / "embeddings" / f"{NAME}.safetensors"


def test_with_stock_nodes(server, prompt):
    run = server.run(prompt)
    assert run.status == "success", run.error
    assert len(run.files["14"]) == len(run.files["15"]) == len(run.files["16"]) == 1
    with safe_open(embedding(server), framework="pt") as file:
        assert list(file.keys()) == ["emb_params"] and file.get_tensor("emb_params").shape == (2, 128)


@pytest.mark.parametrize(
    "node, widget", [("ExemplarConceptInversion", "updates"), ("ExemplarPivotInversion", "iterations")]
)
def test_interruption(server, prompt, node, widget):
    """It ends within a step; what a concept has learned is kept; the next run works."""
    embedding(server).unlink(missing_ok=True)
    id_, few = only(prompt, node), prompt[only(prompt, node)]["inputs"][widget]
    prompt[id_]["inputs"][widget] = 400
    queued = server.queue(prompt)
    server.wait_for_steps(queued, id_, 3, 120)
    asked = time.monotonic()
    server.raw("/interrupt", {})
    run = server.wait(queued)
    took = time.monotonic() - asked
    assert run.status == "interrupted" and run.node == id_
    assert took < 5, f"went on for {took:.1f} s"
    if node == "ExemplarConceptInversion":
        assert embedding(server).is_file()
    prompt[id_]["inputs"][widget] = few
    after = server.run(prompt)
    assert after.status == "success", after.error


def test_a_bad_name_is_refused_at_once(server, prompt):
    prompt["3"]["inputs"]["name"] = "two words"
    del prompt["15"]  # ComfyUI refuses a prompt only when none of its outputs can be made
    status, body = server.refusal(prompt)
    assert status == 400 and "cannot be the name of an embedding" in body
