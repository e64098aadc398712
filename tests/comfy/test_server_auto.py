"""Widgets left on auto in a real ComfyUI server: the model's own values, told in the log."""

import torch

from .server import needs_comfyui
from .workflows import saved

needs_comfyui()

NODES = {
    "model": {"class_type": "ExemplarLoadDemoModel", "inputs": {}},
    "pictures": {"class_type": "ExemplarLoadDemoPictures", "inputs": {"pictures": "drawing"}},
    "save": {"class_type": "SaveImage", "inputs": {"images": ["color", 0], "filename_prefix": "auto"}},
}


def prompt(object_info: dict, **chosen: float) -> dict:
    """Load Embedded Model -> Exemplar Colorize -> Save Image, everything as the page sets it on a new node."""
    widgets = {
        name: options["default"]
        for name, (_, options) in object_info["ExemplarColorize"]["input"]["required"].items()
        if "default" in options
    }
    inputs = {"model": ["model", 0], "vae": ["model", 2], "conditioning": ["model", 3]}
    inputs |= {"image": ["pictures", 0], "reference": ["pictures", 1]}
    return {**NODES, "color": {"class_type": "ExemplarColorize", "inputs": {**inputs, **widgets, **chosen}}}


def test_a_new_node_takes_the_models_own_values(server, object_info):
    from comfyui_exemplar.demo import model_path
    from comfyui_exemplar.files.headers import read_recommended

    recommended = read_recommended(model_path())["exemplar"]
    new = prompt(object_info)
    assert all(new["color"]["inputs"][name] < 0 for name in recommended)
    auto = saved(server, new)
    assert "Exemplar Colorize: auto: recommended by the model: guidance 1" in server.log()
    assert torch.equal(auto, saved(server, prompt(object_info, **recommended)))


def test_a_chosen_value_counts(server, object_info):
    assert not torch.equal(saved(server, prompt(object_info)), saved(server, prompt(object_info, match_chroma=1.0)))
