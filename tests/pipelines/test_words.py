"""The embedded L-CAD does what words say: the example picture, an apple and an umbrella."""

from itertools import combinations, permutations

import pytest

from comfyui_exemplar import demo
from comfyui_exemplar.color import luminance, rgb_to_lab
from comfyui_exemplar.files.pictures import load_picture
from comfyui_exemplar.hosts.diffusers.lcad import load_lcad
from comfyui_exemplar.pipelines.lcad import LCADSettings, describe

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
    """Describe the picture: call it with words -> picture."""
    made = {}

    def make(prompt):
        if prompt not in made:
            settings = LCADSettings.resolve(host.recommended, **SETTINGS)
            made[prompt] = describe(host, gray, prompt, settings)
        return made[prompt]

    return make


def chroma(picture, where):
    return rgb_to_lab(picture)[0][where][:, 1:].mean(0)


class TestOneThing:
    def test_it_takes_the_color_that_is_said(self, colored, things):
        apple, _ = things
        green, red = (chroma(colored(f"{color} apple"), apple) for color in ("green", "red"))
        assert green[0] < -10 and red[0] > 20  # a: from green to red

    def test_lightness_is_the_pictures(self, colored, gray):
        assert float((luminance(colored("green apple")) - luminance(gray)).abs().max()) < 0.1


#: Every way to color two things differently out of three colors, and every change of one of the two words.
COLORS = list(permutations(("red", "green", "blue"), 2))
CHANGES = [(one, other) for one, other in combinations(COLORS, 2) if (one[0] == other[0]) != (one[1] == other[1])]


@pytest.mark.parametrize("before, after", CHANGES, ids=["-".join(one + other) for one, other in CHANGES])
def test_another_word_changes_that_thing_and_leaves_the_other(colored, things, before, after):
    """By how much, and with more colors: training/README.md."""
    which = 0 if before[0] != after[0] else 1
    shown = [colored(f"{apple} apple, {umbrella} umbrella") for apple, umbrella in (before, after)]
    moved = [float((chroma(shown[0], where) - chroma(shown[1], where)).norm()) for where in things]
    assert moved[which] > 20
    assert moved[which] > 1.5 * moved[1 - which]


def test_nothing_said_is_fine(colored, gray):
    automatic = colored("")
    assert automatic.shape == gray.shape
    assert float(rgb_to_lab(automatic)[..., 1:].norm(dim=-1).mean()) > 1
