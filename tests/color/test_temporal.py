"""Steady chroma over video frames."""

import pytest
import torch

from comfyui_exemplar.color import steady_chroma


def flicker(frames=9, side=8, amount=10.0, seed=0):
    """Chroma of a still scene that jumps from frame to frame, and the lightness of that scene."""
    generator = torch.Generator().manual_seed(seed)
    still = torch.randn(1, side, side, 2, generator=generator) * 20
    jumps = torch.randn(frames, 1, 1, 2, generator=generator) * amount
    lightness = 50 + 10 * torch.randn(1, side, side, generator=generator)
    return still + jumps, lightness.repeat(frames, 1, 1)


def changes(chroma):
    return (chroma[1:] - chroma[:-1]).norm(dim=-1).mean()


def test_a_still_scene_calms_down():
    chroma, lightness = flicker()
    calm = [changes(steady_chroma(chroma, lightness, window)) for window in (0, 1, 3)]
    assert calm[2] < 0.5 * calm[1] < 0.5 * calm[0]


def test_weights_fall_linearly_with_distance():
    chroma = torch.zeros(5, 1, 1, 2)
    chroma[2] = 6.0
    found = steady_chroma(chroma, torch.full((5, 1, 1), 50.0), 2)[:, 0, 0, 0]
    # a frame counts 3 for itself, 2 for its neighbors, 1 for the next ones; at the ends some are missing
    torch.testing.assert_close(found, torch.tensor([1 / 6, 2 / 8, 3 / 9, 2 / 8, 1 / 6]) * 6)


def test_nothing_is_carried_over_a_cut():
    chroma, lightness = flicker(frames=6)
    chroma[3:] += 60
    lightness[3:] += 40
    both = steady_chroma(chroma, lightness, 3)
    apart = torch.cat(
        [steady_chroma(part, light, 3) for part, light in ((chroma[:3], lightness[:3]), (chroma[3:], lightness[3:]))]
    )
    torch.testing.assert_close(both, apart, atol=1e-3, rtol=0)


def test_what_moves_keeps_its_color():
    """A dark red ball over a light blue ground."""
    chroma = torch.tensor([0.0, -20.0]).expand(5, 4, 20, 2).clone()
    lightness = torch.full((5, 4, 20), 80.0)
    for frame in range(5):
        ball = slice(4 * frame, 4 * frame + 4)
        chroma[frame, :, ball] = torch.tensor([60.0, 30.0])
        lightness[frame, :, ball] = 40.0
    torch.testing.assert_close(steady_chroma(chroma, lightness, 2), chroma, atol=1e-3, rtol=0)


def test_off_and_single_frames():
    chroma, lightness = flicker(frames=3)
    assert steady_chroma(chroma, lightness, 0) is chroma
    assert steady_chroma(chroma[:1], lightness[:1], 4) is not None
    assert torch.equal(steady_chroma(chroma[:1], lightness[:1], 4), chroma[:1])


def test_refusals():
    chroma, lightness = flicker(frames=3)
    with pytest.raises(ValueError, match="window of -1"):
        steady_chroma(chroma, lightness, -1)
    with pytest.raises(ValueError, match="resize one of them"):
        steady_chroma(chroma, lightness[:, :4], 1)
