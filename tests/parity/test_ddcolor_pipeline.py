"""DDColor's picture pipeline against the published program's numbers, through what the node runs.

OpenCV's Lab is a coarse table, reproduced here by a table of its own. A number may be one unit of that table off (the
set's description: L 6e-3, a and b 3e-3, one level in 0.03 % of the values). And a pixel whose value lies on the border
of two of the table's 512 steps a channel falls to either side by the last bit of a resized float: it moves by a whole
step (L up to 0.3, a and b up to 1). So single pixels are counted; how far the farthest is says little.
"""

import importlib.util

import pytest
import torch
import torch.nn.functional as F

from comfyui_exemplar.color import opencv_lab_to_rgb, opencv_rgb_to_lab, to_uint8
from comfyui_exemplar.networks.ddcolor.load import LoadedDDColor, build
from comfyui_exemplar.pipelines.ddcolor import AutoColorSettings, auto_color, official_input, official_output

from .levels import COMMITTED

#: One unit of OpenCV's table in L, and in a and b; and what its steps of 1/512 in a channel make at most.
UNIT_L, UNIT_AB = 100 / 2**14 + 1e-4, 256 / 2**14 + 1e-4
STEP_L, STEP_AB = 0.3, 1.0
#: Which share of pixels may move by a step. A float is on a border within its last bits (6e-8 of 1/512) for about one
#: pixel in 30,000; ten times that, and two pixels of a small picture.
MOVED, FEW = 3e-4, 2
CHROMA = 2e-3
#: Which share of 8-bit values may be a level off: three times what units of the table make.
LEVELS = 1e-3


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


def check_but_for_steps(found, expected, unit, step):
    """Nearly all numbers are the same to a unit of the table; the few others by a step of its input."""
    assert largest(found, expected) <= step
    moved = int(((found - expected).abs() > unit).sum())
    assert moved <= (0 if COMMITTED else max(FEW, MOVED * expected.numel())), (
        f"{moved} of {expected.numel()} numbers moved by a step"
    )


def test_color_space(ddcolor_set):
    golden = ddcolor_set.file("golden_colorspace")
    lab = opencv_rgb_to_lab(golden["rgb"][None, None])[0, 0]
    check_but_for_steps(lab[:, 0], golden["lab_of_rgb"][:, 0], UNIT_L, STEP_L)
    check_but_for_steps(lab[:, 1:], golden["lab_of_rgb"][:, 1:], UNIT_AB, STEP_AB)
    assert float(((lab - golden["lab_of_rgb"]).abs() > 1e-4).float().mean()) < 0.005  # nearly all are equal
    assert largest(opencv_lab_to_rgb(golden["lab"][None, None])[0, 0], golden["rgb_of_lab"]) < 1e-4


def test_network_input(cases):
    for size, golden in cases:
        found = official_input(golden["rgb"], (size, size))
        check_but_for_steps(found[0, 0], golden["net_in_channel0"], 1.5 * UNIT_L / 100, 1.5 * STEP_L / 100)
        assert largest(found, found[:, :1].expand_as(found)) < 1e-6
        lab = opencv_rgb_to_lab(
            F.interpolate(golden["rgb"].movedim(-1, 1), (size, size), mode="bilinear").movedim(1, -1)
        )
        check_but_for_steps(lab[0, ..., 0], golden["resized_l"], UNIT_L, STEP_L)
        check_but_for_steps(opencv_rgb_to_lab(golden["rgb"])[0, ..., 0], golden["orig_l"], UNIT_L, STEP_L)


def test_network_output(host, cases):
    """On the recorded input exactly, and on our own to what a unit of L is worth, but for what a moved pixel
    touches."""
    for size, golden in cases:
        recorded = golden["net_in_channel0"].expand(1, 3, -1, -1)
        assert largest(host(recorded), golden["net_out_ab"]) <= CHROMA
        ours = host(official_input(golden["rgb"], (size, size)))
        error = (ours - golden["net_out_ab"]).abs()
        assert not COMMITTED or float(error.max()) <= 3 * CHROMA
        assert float((error > 3 * CHROMA).float().mean()) <= 0.01 and float(error.mean()) <= CHROMA


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
    assert float((difference > 0).float().mean()) < LEVELS
    assert torch.equal((found * 255).round() / 255, found)


def test_textbook_lab_would_not_do(cases):
    """The test can tell: with the textbook's Lab in the place of OpenCV's, far more levels differ."""
    from comfyui_exemplar.color import lab_to_rgb, rgb_to_lab

    for _, golden in cases:
        enlarged = golden["ab_resized"].movedim(1, -1)
        wrong = lab_to_rgb(torch.cat([rgb_to_lab(golden["rgb"])[..., :1], enlarged], -1))
        assert float((to_uint8(wrong)[0].flip(-1) != golden["out_bgr_u8"]).float().mean()) > 20 * LEVELS
