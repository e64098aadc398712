"""The embedded L-CAD does what words say: the example picture, an apple and an umbrella."""

import pytest
import torch

from comfyui_exemplar import demo
from comfyui_exemplar.color import luminance, rgb_to_lab
from comfyui_exemplar.hosts.lcad import load_lcad
from comfyui_exemplar.pipelines.lcad import LCADSettings, describe
from comfyui_exemplar.pipelines.pictures import load_picture

PICTURES = demo.lcad_path().parent / "pictures"
SETTINGS = {"steps": 8}


@pytest.fixture(scope="module")
def host():
    return load_lcad(demo.lcad_path())


@pytest.fixture(scope="module")
def gray():
    return load_picture(PICTURES / "words-gray.png")


@pytest.fixture(scope="module")
def things(gray):
    """(apple, umbrella): where lightness is below the ground's, left and right; without the apple's leaf."""
    drawn = luminance(gray)[0] < 90
    left, right = drawn.clone(), drawn.clone()
    left[:, 128:] = right[:, :128] = False
    left[:76] = False
    right[108:] = False  # the handle
    return left, right


@pytest.fixture(scope="module")
def colored(host, gray):
    """Mean a and b of apple and umbrella for a prompt: call it with words -> picture."""
    made = {}

    def make(prompt):
        if prompt not in made:
            settings = LCADSettings(**(host.recommended | SETTINGS))
            made[prompt] = describe(host, gray, prompt, settings)
        return made[prompt]

    return make


def chroma(picture, where):
    return rgb_to_lab(picture)[0][where][:, 1:].mean(0)
