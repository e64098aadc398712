"""OpenCV's float Lab, from its table: against OpenCV itself, and what must hold without it."""

import numpy as np
import pytest
import torch

from comfyui_exemplar.color import opencv_lab_to_rgb, opencv_rgb_to_lab, rgb_to_lab


def colors(count=4096, seed=0):
    """Random ones, every gray of 8 bits, the corners of the cube, and values on the table's points."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.arange(256)[:, None].expand(-1, 3) / 255
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    points = torch.randint(0, 33, (count, 3), generator=generator) / 32
    return torch.cat([torch.rand(count, 3, generator=generator), levels, corners, points])[None, None]


def test_as_opencv():
    cv2 = pytest.importorskip("cv2")
    rgb = colors()
    expected = torch.from_numpy(cv2.cvtColor(np.ascontiguousarray(rgb[0].numpy()), cv2.COLOR_RGB2Lab))[None]
    found = opencv_rgb_to_lab(rgb)
    step = torch.tensor([100.0, 256.0, 256.0]) / 2**14 + 1e-4
    error = (found - expected).abs()
    assert bool((error <= step).all())
    assert float((error > 1e-4).float().mean()) < 0.005
    back = torch.from_numpy(cv2.cvtColor(np.ascontiguousarray(expected[0].numpy()), cv2.COLOR_Lab2RGB))[None]
    assert float((opencv_lab_to_rgb(expected) - back).abs().max()) < 1e-4


def test_near_the_textbook_s_but_not_the_same():
    error = (opencv_rgb_to_lab(colors()) - rgb_to_lab(colors())).abs().amax((0, 1, 2))
    assert error[0] < 0.3 and error[1:].max() < 0.7
    assert error[0] > 0.05 and error[1:].max() > 0.2


def test_there_and_back():
    rgb = colors()
    assert float((opencv_lab_to_rgb(opencv_rgb_to_lab(rgb)) - rgb).abs().max()) < 0.02


def test_beyond_the_cube_is_clipped():
    wild = torch.tensor([-0.5, 0.5, 1.5]).view(1, 1, 1, 3)
    assert torch.equal(opencv_rgb_to_lab(wild), opencv_rgb_to_lab(wild.clamp(0, 1)))
    back = opencv_lab_to_rgb(torch.tensor([90.0, 120.0, -120.0]).view(1, 1, 1, 3))
    assert float(back.min()) >= 0 and float(back.max()) <= 1


def test_many_rows_are_their_single_rows():
    rgb = torch.rand(1, 600, 3, 3, generator=torch.Generator().manual_seed(1))
    whole = opencv_rgb_to_lab(rgb)
    assert torch.equal(whole[:, 300:301], opencv_rgb_to_lab(rgb[:, 300:301]))
