"""Measures of how steady a film's colors are."""

import math

import pytest
import torch

from comfyui_exemplar.color.film_metrics import ab_errors, cdc, warp_error
from comfyui_exemplar.color.registration import boxed


def pictures(frames=6, side=12, seed=0):
    return list(torch.rand(frames, side, side, 3, generator=torch.Generator().manual_seed(seed)))


def test_cdc_of_what_does_not_change_and_of_what_has_nothing_in_common():
    assert cdc([pictures()[0]] * 6) == 0
    black, white = torch.zeros(8, 8, 3), torch.ones(8, 8, 3)
    # steps of 1 differ fully, those of 2 and 4 not at all
    assert cdc([black, white] * 3) == pytest.approx(math.log(2) / 3)


def test_cdc_by_hand():
    """Half of the red turns from level 0 to level 255 in the last of five frames."""
    frames = [torch.zeros(2, 2, 3) for _ in range(5)]
    frames[4][0, :, 0] = 1
    half = 0.5 * (math.log(1 / 0.75) + 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25))
    # one of four pairs, one of three and the only one; a third each; one channel of three
    assert cdc(frames) == pytest.approx(half * (1 / 4 + 1 / 3 + 1) / 3 / 3)


def test_warp_error_along_a_true_motion():
    """Everything goes two pixels to the right; the new columns are not compared."""
    wide = torch.rand(10, 30, 2, generator=torch.Generator().manual_seed(1)) * 40
    chroma = [wide[:, 10 - 2 * n : 26 - 2 * n] for n in range(4)]
    way = torch.tensor([-2.0, 0.0]).expand(10, 16, 2)
    seen = torch.ones(10, 16, dtype=torch.bool)
    seen[:, :2] = False
    assert warp_error(chroma, flows=[(way, seen)] * 3) == pytest.approx(0, abs=1e-4)
    chroma[2] = chroma[2] + torch.tensor([3.0, 4.0])  # 5 away, from both neighbors
    assert warp_error(chroma, flows=[(way, seen)] * 3) == pytest.approx(10 / 3, abs=1e-4)
    assert warp_error(chroma, flows=[(torch.zeros(10, 16, 2), seen)] * 3) > 10


def test_warp_error_finds_the_motion_itself():
    pytest.importorskip("cv2")
    generator = torch.Generator().manual_seed(2)
    light = boxed(torch.randn(80, 120, generator=generator), 1, 2)
    light = 50 + 12 * light / light.std()
    color = boxed(torch.randn(2, 80, 120, generator=generator), 3, 2).movedim(0, -1) * 60
    windows = [(slice(10, 74), slice(30 - 3 * n, 94 - 3 * n)) for n in range(4)]
    chroma, lightness = [color[w] for w in windows], [light[w] for w in windows]
    steady = warp_error(chroma, lightness=lightness)
    jumping = [each + 10 * (n % 2) for n, each in enumerate(chroma)]
    assert steady < 0.2 * warp_error(chroma, flows=[(torch.zeros(64, 64, 2), torch.ones(64, 64))] * 3)
    assert warp_error(jumping, lightness=lightness) == pytest.approx(math.hypot(10, 10), rel=0.1)


def test_errors_frame_by_frame():
    frames = pictures(3)
    assert ab_errors(frames, frames) == [0, 0, 0]
    found = ab_errors([frames[0], frames[1].flip(-1)], frames[:2])
    assert found[0] == 0
    assert found[1] > 5


def test_what_does_not_fit_is_named():
    frames = pictures(4)
    with pytest.raises(ValueError, match="found 4 frames, expected at least 5"):
        cdc(frames)
    chroma = [frame[..., :2] for frame in frames]
    with pytest.raises(ValueError, match="either lightness or flows"):
        warp_error(chroma)
    with pytest.raises(ValueError, match="found none"):
        warp_error(chroma, flows=[])
    with pytest.raises(ValueError, match=r"flow of \(2, 2\) for chroma of \(12, 12\)"):
        warp_error(chroma, flows=[(torch.zeros(2, 2, 2), torch.ones(2, 2))] * 3)
    with pytest.raises(ValueError, match="seen in two frames"):
        warp_error(chroma[:1], flows=[])
