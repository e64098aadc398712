"""Chroma of a copy carried to the original's pixels."""

import pytest
import torch

from comfyui_exemplar.color import rgb_to_lab, transfer
from comfyui_exemplar.color.transfer import aligned_chroma, at_size, carried, changed, filled, fitting, lightness_of


def ramp(height=40, width=56):
    rows, columns = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return torch.stack([0.2 + 0.6 * columns, 0.3 + 0.4 * rows, 0.7 - 0.4 * columns], -1)


def test_nothing_moved_is_the_copy_itself():
    picture = torch.rand(30, 41, 3, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(carried(picture, torch.zeros(9, 7, 2), (30, 41)), picture, atol=1e-5)


def test_a_displacement_says_where_the_copy_is_read():
    picture = torch.rand(30, 40, 3, generator=torch.Generator().manual_seed(1))
    motion = torch.zeros(15, 20, 2)  # half size: its pixels are two
    motion[..., 0], motion[..., 1] = 1.5, -1.0
    found = carried(picture, motion, (30, 40))
    assert torch.allclose(found[2:, :-3], picture[:-2, 3:], atol=1e-4)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_strips_join_without_a_seam(factor, monkeypatch):
    edited, motion = ramp(40 // factor, 56 // factor), 0.7 * torch.ones(40, 56, 2)
    lightness = lightness_of(ramp()) + 5 * torch.rand(40, 56, generator=torch.Generator().manual_seed(2))
    whole = aligned_chroma(edited, motion, lightness)
    monkeypatch.setattr(transfer, "STRIP", 56 * 5 * factor)
    parts = aligned_chroma(edited, motion, lightness)
    assert whole.shape == parts.shape == (40, 56, 2)
    assert float((whole - parts).abs().max()) < 1e-3


def test_a_larger_copy_is_averaged():
    large = ramp(160, 224)
    found = aligned_chroma(large, torch.zeros(40, 56, 2), lightness_of(ramp()))
    assert fitting(large, (40, 56)).shape == (40, 56, 3)
    assert float((found - rgb_to_lab(ramp()[None])[0, ..., 1:]).abs().mean()) < 0.4


def test_gaps_take_the_color_that_their_lightness_has_around():
    lightness = torch.full((64, 96), 30.0)
    lightness[:, 48:] = 70
    chroma = torch.where(lightness[..., None] > 50, torch.tensor([20.0, 5.0]), torch.tensor([-10.0, 30.0]))
    weight = torch.ones(64, 96)
    weight[20:44, 36:60] = 0
    broken = torch.where(weight[..., None] > 0, chroma, torch.tensor([90.0, -90.0]))
    assert float((filled(broken, weight, lightness) - chroma)[20:44, 36:60].norm(dim=-1).mean()) < 2


def test_filling_with_nothing_sure_is_finite():
    found = filled(torch.ones(5, 9, 2), torch.zeros(5, 9), torch.full((5, 9), 50.0))
    assert bool(found.isfinite().all())


def test_what_an_edit_left_alone_is_not_changed():
    own = torch.zeros(40, 40, 2) + torch.tensor([10.0, -5.0])
    edit = own + torch.tensor([1.5, 1.0])  # a cast over everything
    edit[10:30, 10:30] = torch.tensor([40.0, 40.0])
    found = changed(own, edit, torch.ones(40, 40), 1.0)
    assert float(found[:5].max()) == 0 and float(found[15:25, 15:25].min()) == 1


def test_enlarging_keeps_axes():
    assert at_size(torch.rand(3, 4), (6, 8)).shape == (6, 8)
    assert at_size(torch.rand(3, 4, 2), (6, 8)).shape == (6, 8, 2)
    same = torch.rand(3, 4)
    assert torch.equal(at_size(same, (3, 4)), same)
