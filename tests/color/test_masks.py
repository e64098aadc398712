"""What counts as a mask, and what is refused by name."""

import logging

import pytest
import torch

from comfyui_exemplar.color import as_mask, check_masks

GOOD = torch.linspace(0, 1, 24).reshape(1, 4, 6)


def test_a_mask_comes_back_itself():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        mask = GOOD.to(dtype)
        assert as_mask(mask, "mask") is mask
    assert as_mask(None, "mask") is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (GOOD[0], GOOD),
        (GOOD[:, None], GOOD),
        (GOOD[..., None], GOOD),
        (GOOD.expand(3, 4, 6)[:, None], GOOD.expand(3, 4, 6)),
        (torch.ones(1, 1, 4, 6), torch.ones(1, 4, 6)),
        (torch.ones(1, 4, 1, 1), torch.ones(1, 4, 1)),  # one column: the first axis of four is no channel
        (GOOD > 0.5, (GOOD > 0.5).float()),
    ],
)
def test_shapes_that_mean_masks(given, expected):
    found = as_mask(given, "mask")
    assert found.is_floating_point() and torch.equal(found, expected)


def test_what_a_resize_left_outside_is_clipped(caplog):
    given = GOOD * 1.2 - 0.1
    with caplog.at_level(logging.WARNING):
        found = as_mask(given, "Here: mask")
    assert torch.equal(found, given.clamp(0, 1))
    assert "Here: mask: values from -0.100 to 1.100 are clipped" in caplog.text


def test_rounding_errors_are_no_news(caplog):
    given = GOOD * (1 + 1e-6)
    assert float(as_mask(given, "mask").max()) == 1 and not caplog.text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (GOOD * 255, "found values from 0 to 255, expected 0..1; divide 8-bit values by 255"),
        (GOOD * 2 - 1, "found values from -1 to 1, expected 0..1; bring -1..1 to 0..1"),
        (GOOD / 0, "found NaN or infinite"),
        (torch.full((1, 4, 6), float("inf")), "found NaN or infinite"),
        (torch.full((1, 4, 6), 1e30), r"found values from 1e\+30"),
        ((GOOD * 255).to(torch.uint8), "found dtype"),
        (GOOD.long(), "found dtype"),
        (torch.zeros(0, 4, 6), "found an empty mask"),
        (torch.zeros(1, 0, 6), "found an empty mask"),
        (torch.rand(1, 4, 6, 3), "found a picture .* Convert Image to Mask"),
        (torch.rand(1, 4, 6, 4), "found a picture"),
        (torch.rand(2, 3, 4, 6), "found a tensor of shape"),
        (torch.rand(2, 1, 6, 1), "found a tensor of shape"),  # the channel could be either
        (torch.rand(1, 1, 1, 4, 6), "found a tensor of shape"),
        (torch.rand(6), "found a tensor of shape"),
        (GOOD.to(torch.complex64), "found dtype"),
        ([[0.0, 1.0]], "found list"),
        ("mask.png", "found str"),
        (GOOD.to_sparse(), "found a sparse tensor"),
    ],
)
def test_refused(given, message):
    with pytest.raises(ValueError, match=f"^Node: mask: {message}"):
        as_mask(given, "Node: mask")


def test_numbers_of_masks():
    assert check_masks(None, 3) is None
    assert torch.equal(check_masks(GOOD[0], 3), GOOD)
    with pytest.raises(ValueError, match="input_mask: found 2 for 3 picture"):
        check_masks(GOOD.expand(2, 4, 6), 3, "input_mask")
    with pytest.raises(ValueError, match="reference_mask: found values from 0 to 255"):
        check_masks(GOOD * 255, 3, "reference_mask")
