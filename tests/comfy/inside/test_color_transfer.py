"""The formulas that transferred colors are measured against are those of ComfyUI's own ColorTransfer node."""

import importlib.util
from pathlib import Path

import pytest
import torch

PACK = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def baselines():
    """training/baselines.py alone: the training's room is no part of the pack that ComfyUI loads."""
    spec = importlib.util.spec_from_file_location("exemplar_baselines", PACK / "training" / "baselines.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def node():
    post_processing = pytest.importorskip("comfy_extras.nodes_post_processing")
    if not hasattr(post_processing, "ColorTransfer"):
        pytest.skip("this ComfyUI has no ColorTransfer")
    return post_processing.ColorTransfer


@pytest.fixture(scope="module")
def pictures():
    """A picture with structure, once in color and once gray, and another in other colors."""
    generator = torch.Generator().manual_seed(11)
    coarse = torch.rand(2, 3, 6, 8, generator=generator)
    one, other = torch.nn.functional.interpolate(coarse, (48, 64), mode="bicubic").clamp(0.05, 0.95).movedim(1, -1)
    return one[None], one.mean(-1, keepdim=True).expand(-1, -1, 3)[None].contiguous(), other[None]


@pytest.mark.parametrize(
    ("method", "name", "gray"),
    [
        ("reinhard_lab", "reinhard", False),
        ("reinhard_lab", "reinhard", True),
        # not of a gray picture: its a and b are rounding errors, and which way they are stretched is chance
        ("mkl_lab", "monge_kantorovich", False),
        ("histogram", "match_histogram", False),
        ("histogram", "match_histogram", True),
    ],
)
def test_formulas_are_the_nodes(baselines, node, pictures, method, name, gray):
    image, reference = pictures[int(gray)], pictures[2]
    theirs = node.execute(image, reference, method, {"source_stats": "per_frame"}).args[0].cpu()
    ours = getattr(baselines, name)(image, reference).clamp(0, 1)
    assert torch.allclose(ours, theirs, atol=1e-4)
