"""Palettes bound what comes out."""

import math

import pytest
import torch

from comfyui_exemplar.memory.palette import Palette, bounded, hull, into_hull

SQUARE = torch.tensor([[10.0, 10.0], [40.0, 10.0], [40.0, 40.0], [10.0, 40.0], [20.0, 30.0]])


def test_inside_stays_as_it_is_and_outside_comes_to_the_nearest_point():
    colors = torch.tensor([[20.0, 20.0], [0.0, 20.0], [50.0, 60.0], [25.0, 45.0], [40.0, 40.0]])
    found = into_hull(colors, hull(SQUARE))
    torch.testing.assert_close(
        found, torch.tensor([[20.0, 20], [10, 20], [40, 40], [25, 40], [40, 40]]), atol=1e-3, rtol=0
    )
    assert torch.equal(found[0], colors[0])


def test_nearest_of_all_points_of_a_round_hull():
    angles = torch.linspace(0, 2 * math.pi, 500)
    disc = 30 * torch.stack([angles.cos(), angles.sin()], -1) + torch.tensor([5.0, -8.0])
    colors = 200 * (torch.rand(400, 2, generator=torch.Generator().manual_seed(0)) - 0.5)
    off = colors - torch.tensor([5.0, -8.0])
    exact = torch.where(off.norm(dim=-1, keepdim=True) > 30, off / off.norm(dim=-1, keepdim=True) * 30, off)
    exact = exact + torch.tensor([5.0, -8.0])
    found = into_hull(colors, hull(disc))
    assert (found - torch.tensor([5.0, -8.0])).norm(dim=-1).max() < 30 + 1e-3
    # beside a corner of the polygon of 64 sides the point is another one, and no further away
    assert ((found - colors).norm(dim=-1) - (exact - colors).norm(dim=-1)).max() < 0.05


@pytest.mark.parametrize("colors", [[[30.0, 20.0]], [[30.0, 20.0], [10.0, -20.0]]])
def test_one_color_and_two_are_a_point_and_a_line(colors):
    palette = torch.tensor(colors)
    asked = 100 * (torch.rand(50, 2, generator=torch.Generator().manual_seed(1)) - 0.5)
    found = into_hull(asked, hull(palette))
    ends = palette[[0, -1]]
    side = ends[1] - ends[0]
    along = ((asked - ends[0]) @ side / side.square().sum().clamp_min(1e-9)).clamp(0, 1)[:, None]
    torch.testing.assert_close(found, ends[0] + along * side, atol=2e-3, rtol=0)


def test_no_palette_changes_nothing():
    chroma = torch.randn(4, 5, 2)
    assert bounded(chroma, torch.zeros(4, 5), ()) is chroma


def test_palettes_of_the_whole_picture_hold_together():
    red, blue = (Palette(torch.tensor([c])) for c in ([60.0, 0.0], [0.0, -60.0]))
    chroma = torch.tensor([[[30.0, -30.0]]])
    torch.testing.assert_close(bounded(chroma, torch.zeros(1, 1), (red, blue)), chroma, atol=1e-3, rtol=0)
    torch.testing.assert_close(bounded(chroma, torch.zeros(1, 1), (red,)), torch.tensor([[[60.0, 0.0]]]))


def test_a_region_has_its_own_palette():
    mask = torch.zeros(4, 6)
    mask[:, 3:] = 1
    red, blue = torch.tensor([[60.0, 0.0]]), torch.tensor([[0.0, -60.0]])
    found = bounded(torch.zeros(4, 6, 2), torch.zeros(4, 6), (Palette(red, mask=mask), Palette(blue)))
    assert torch.equal(found[:, 3:], red.expand(4, 3, 2)) and torch.equal(found[:, :3], blue.expand(4, 3, 2))
    alone = bounded(torch.ones(4, 6, 2), torch.zeros(4, 6), (Palette(red, mask=mask),))
    assert torch.equal(alone[:, :3], torch.ones(4, 3, 2))  # elsewhere nothing is bounded


def test_tied_to_lightness_each_color_bounds_what_is_as_light():
    palette = Palette(torch.tensor([[50.0, 0.0], [0.0, 50.0]]), torch.tensor([20.0, 80.0]))
    lightness = torch.tensor([[20.0, 80.0, 0.0, 100.0]])
    found = bounded(torch.zeros(1, 4, 2), lightness, (palette,))
    torch.testing.assert_close(found[0], torch.tensor([[50.0, 0], [0, 50], [50, 0], [0, 50]]), atol=1e-3, rtol=0)
    ramp = bounded(torch.zeros(1, 101, 2), torch.arange(101.0)[None], (palette,))
    assert (ramp[0, 1:] - ramp[0, :-1]).norm(dim=-1).max() < 50  # it passes over, in steps of lightness


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"chroma": torch.zeros(0, 2)}, "at least one"),
        ({"chroma": torch.tensor([[1.0, 1.0], [0.0, -2.0]])}, "nothing but gray"),
        ({"chroma": torch.tensor([[40.0, 0.0]]), "lightness": torch.zeros(2)}, "found 2 lightness values, expected 1"),
        ({"chroma": torch.tensor([[40.0, 0.0]]), "mask": torch.zeros(4, 4)}, "covers nothing"),
    ],
)
def test_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Palette(**wrong)
