"""DDColor's picture pipeline against the published program's numbers, through what the node runs.

OpenCV's Lab is reproduced by a table of its own, which is one step off for a few numbers; the set's description gives
the errors that this makes (L 6e-3, a and b 3e-3, one level in 0.03 % of the values).
"""

import importlib.util

import pytest
import torch
import torch.nn.functional as F

from comfyui_exemplar.color import opencv_lab_to_rgb, opencv_rgb_to_lab, to_uint8
from comfyui_exemplar.networks.ddcolor.load import LoadedDDColor, build
from comfyui_exemplar.pipelines.ddcolor import AutoColorSettings, auto_color, official_input, official_output

#: One step of OpenCV's table in L, and in a and b.
STEP_L, STEP_AB = 100 / 2**14 + 1e-4, 256 / 2**14 + 1e-4
CHROMA = 2e-3


@pytest.fixture(scope="module")
def host(ddcolor_tiny_weights):
    """The network as the node holds it; inside ComfyUI under its model manager."""
    loaded = LoadedDDColor(*build(ddcolor_tiny_weights), "recipe")
    if importlib.util.find_spec("comfy") is None:
        return loaded
    from comfyui_exemplar.hosts.comfy.ddcolor import ComfyDDColor

    return ComfyDDColor(loaded)


@pytest.fixture(scope="module")
def cases(ddcolor_set):
    """(network size, tensors) of every recorded picture."""
    found = []
    for case in ddcolor_set.meta["pipeline_cases"]:
        assert case["weights"] == "convnext_t"
        size = case["input_size"]
        golden = ddcolor_set.file(f"golden_pipeline_{case['height']}x{case['width']}_in{size}")
        golden["rgb"] = golden["image_bgr_u8"].flip(-1)[None] / 255
        assert golden["rgb"].shape == (1, case["height"], case["width"], 3)
        found.append((size, golden))
    assert found, "the set lists no case"
    return found


def largest(found, expected):
    assert found.shape == expected.shape
    return float((found - expected).abs().max())


def test_color_space(ddcolor_set):
    golden = ddcolor_set.file("golden_colorspace")
    lab = opencv_rgb_to_lab(golden["rgb"][None, None])[0, 0]
    error = (lab - golden["lab_of_rgb"]).abs()
    assert float(error[:, 0].max()) <= STEP_L and float(error[:, 1:].max()) <= STEP_AB
    assert float((error > 1e-4).float().mean()) < 0.005  # nearly all are equal
    assert largest(opencv_lab_to_rgb(golden["lab"][None, None])[0, 0], golden["rgb_of_lab"]) < 1e-4


def test_network_input(cases):
    for size, golden in cases:
        found = official_input(golden["rgb"], (size, size))
        assert largest(found[0, 0], golden["net_in_channel0"]) < 1e-4  # one step of L
        assert largest(found, found[:, :1].expand_as(found)) < 1e-6
        lab = opencv_rgb_to_lab(
            F.interpolate(golden["rgb"].movedim(-1, 1), (size, size), mode="bilinear").movedim(1, -1)
        )
        assert largest(lab[0, ..., 0], golden["resized_l"]) <= STEP_L
        assert largest(opencv_rgb_to_lab(golden["rgb"])[0, ..., 0], golden["orig_l"]) <= STEP_L


def test_network_output(host, cases):
    """On the recorded input exactly, and on our own to what a step of L is worth."""
    for size, golden in cases:
        recorded = golden["net_in_channel0"].expand(1, 3, -1, -1)
        assert largest(host(recorded), golden["net_out_ab"]) <= CHROMA
        ours = host(official_input(golden["rgb"], (size, size)))
        assert largest(ours, golden["net_out_ab"]) <= 3 * CHROMA


def test_assembling(cases):
    for _, golden in cases:
        lab = torch.cat([golden["orig_l"][None, ..., None], golden["ab_resized"].movedim(1, -1)], -1)
        assert largest(opencv_lab_to_rgb(lab).flip(-1)[0], golden["out_bgr_float"]) < 1e-4
        found = official_output(golden["rgb"], golden["net_out_ab"])
        check_levels(found, golden)


def test_whole_pipeline(host, cases):
    for size, golden in cases:
        settings = AutoColorSettings(resolution=size, arithmetic="official")
        found = auto_color(host, golden["rgb"], settings)
        check_levels(found, golden)
        # a batch is its pictures
        batch = auto_color(host, torch.cat([golden["rgb"], golden["rgb"].flip(2)]), settings)
        assert largest(batch[:1], found) <= 1 / 255 + 1e-6


def check_levels(found, golden):
    """At most one 8-bit level, and rarely."""
    difference = (to_uint8(found)[0].flip(-1).int() - golden["out_bgr_u8"].int()).abs()
    assert int(difference.max()) <= 1
    assert float((difference > 0).float().mean()) < 1e-3
    assert torch.equal((found * 255).round() / 255, found)


def test_textbook_lab_would_not_do(cases):
    """The test can tell: with the textbook's Lab in the place of OpenCV's, pictures differ by more than a level."""
    from comfyui_exemplar.color import lab_to_rgb, rgb_to_lab

    worst = 0
    for _, golden in cases:
        enlarged = golden["ab_resized"].movedim(1, -1)
        wrong = lab_to_rgb(torch.cat([rgb_to_lab(golden["rgb"])[..., :1], enlarged], -1))
        worst = max(worst, int((to_uint8(wrong)[0].flip(-1).int() - golden["out_bgr_u8"].int()).abs().max()))
    assert worst > 1
