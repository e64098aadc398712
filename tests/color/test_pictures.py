"""What counts as a picture, and what is refused by name."""

import logging

import pytest
import torch

from comfyui_exemplar.color import as_picture

GOOD = torch.linspace(0, 1, 72).reshape(1, 4, 6, 3)


def test_a_picture_comes_back_itself():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        image = GOOD.to(dtype)
        assert as_picture(image, "image") is image


def test_what_a_resize_left_outside_is_clipped(caplog):
    given = GOOD * 1.2 - 0.1
    with caplog.at_level(logging.WARNING):
        found = as_picture(given, "Here: image")
    assert torch.equal(found, given.clamp(0, 1))
    assert caplog.text.count("clipped") == 1
    assert as_picture(found, "image") is found


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (GOOD * 255, "found values from 0 to 255, expected 0..1; divide 8-bit values by 255"),
        (GOOD * 2 - 1, "found values from -1 to 1, expected 0..1; bring -1..1 to 0..1"),
        (GOOD * 12, "found values from 0 to 12"),  # light of an HDR picture
        (GOOD / 0, "found NaN or infinite"),
        (torch.where(GOOD == 1, torch.nan, GOOD), "found NaN or infinite"),
        (torch.where(GOOD == 1, 1e30, GOOD), r"found values from 0 to 1e\+30"),
        ((GOOD * 255).to(torch.uint8), "found dtype torch.uint8"),
        (GOOD > 0.5, "found dtype torch.bool"),
        (GOOD.to(torch.complex64), "found dtype torch.complex64"),
        (GOOD.to(torch.float8_e4m3fn), "found dtype torch.float8"),
        (GOOD[..., :2], "found 2 channels"),
        (GOOD[None], "found a tensor of shape"),
        (GOOD[0], "found a tensor of shape"),
        (GOOD[:0], "found an empty batch"),
        (GOOD[:, :1], "found 6 x 1 pixels"),
        (None, "found nothing"),
        ([GOOD], "found list"),
    ],
)
def test_refused(given, message):
    with pytest.raises(ValueError, match=f"^Node: image: {message}"):
        as_picture(given, "Node: image")
