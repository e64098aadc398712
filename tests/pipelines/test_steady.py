"""Steady colors of frames that something else has colored."""

import pytest
import torch

from comfyui_exemplar.color import ab_error, luminance, luminance_to_rgb, rgb_to_lab
from comfyui_exemplar.color.registration import boxed
from comfyui_exemplar.pipelines import steady
from comfyui_exemplar.pipelines.steady import SteadyColorSettings, is_cut, starts_of, steady_color

SIDE = 48


def ground(seed, level=0.5):
    """(SIDE, 2 SIDE): gray with texture."""
    plane = boxed(torch.randn(SIDE, 2 * SIDE, generator=torch.Generator().manual_seed(seed)), 1, 2)
    return (level + 0.12 * plane / plane.std()).clamp(0.05, 0.9)


def shot(seed, frames=8, level=0.5, tint=(1.0, 0.8, 0.6)):
    """Gray and true frames of a slow pan."""
    planes = torch.stack([ground(seed, level)[:, n : n + SIDE] for n in range(frames)])
    true = (planes[..., None] * torch.tensor(tint)).clamp(0, 1)
    return luminance_to_rgb(luminance(true)), true


def flickering(true, amount=0.12, seed=9):
    gains = 1 + amount * torch.randn(len(true), 1, 1, 3, generator=torch.Generator().manual_seed(seed))
    return (true * gains).clamp(0, 1)


def changes(frames):
    return rgb_to_lab(frames)[..., 1:].mean((1, 2)).diff(dim=0).norm(dim=-1).mean()


def test_flicker_goes_and_lightness_stays():
    gray, true = shot(0)
    found = flickering(true)
    made = steady_color(found, image=gray)
    assert changes(made) < 0.2 * changes(found)
    assert ab_error(made, true).mean() < 0.7 * ab_error(found, true).mean()
    assert (luminance(made) - luminance(gray)).abs().max() < 0.05


def test_without_the_gray_frames_their_own_lightness_stays():
    found = flickering(shot(0)[1])
    made = steady_color(found)
    assert (luminance(made) - luminance(found)).abs().max() < 0.05
    assert changes(made) < 0.2 * changes(found)


def test_neutral_values_change_nothing_but_rounding():
    gray, true = shot(1, 4)
    found = flickering(true)
    for settings in (SteadyColorSettings(strength=0), SteadyColorSettings(steadiness=0)):
        assert (steady_color(found, settings) - found).abs().max() < 1e-3
    whole, half = (steady_color(found, SteadyColorSettings(strength=each), image=gray) for each in (1.0, 0.5))
    assert changes(whole) < changes(half) < changes(found)


def test_nothing_is_carried_over_a_cut():
    (first, one), (second, two) = shot(0, 6, 0.35), shot(5, 6, 0.65, (0.6, 0.8, 1.0))
    found = flickering(torch.cat([one, two]))
    gray = torch.cat([first, second])
    assert starts_of(gray, SteadyColorSettings()) == [0, 6]
    made = steady_color(found, image=gray)
    apart = torch.cat([steady_color(found[:6], image=first), steady_color(found[6:], image=second)])
    assert torch.equal(made, apart)
    assert torch.equal(steady_color(found, SteadyColorSettings(cuts="0, 6"), image=gray), apart)
    assert starts_of(gray, SteadyColorSettings(cuts="0")) == [0]


def test_what_is_no_cut():
    """A fast pan, a passing thing, and light that changes."""
    plane = boxed(torch.randn(32, 64, generator=torch.Generator().manual_seed(3)), 2, 2)
    plane = 50 + 15 * plane / plane.std()
    here = plane[:, :32]
    assert not is_cut(here, plane[:, 3:35])
    passing = here.clone()
    passing[5:25, 8:20] = 20
    assert not is_cut(here, passing)
    assert not is_cut(here, here * 0.6)
    assert not is_cut(torch.full((32, 32), 5.0), torch.full((32, 32), 6.0))
    assert is_cut(here, 100 - plane[:, 32:])


def test_unsure_places_take_the_color_of_other_frames():
    gray, true = shot(2, 7)
    found = true.clone()
    found[3] = true[3].flip(-1)
    sure = torch.ones(7, 20, 20)
    sure[3] = 0.02
    made = steady_color(found, image=gray, confidence=sure)
    assert ab_error(made, true)[3] < 0.3 * ab_error(steady_color(found, image=gray), true)[3]
    assert torch.equal(made, steady_color(found, image=gray, confidence=sure))


def test_the_result_has_the_gray_frames_size_and_dtype():
    gray, true = shot(2, 3)
    small = true[:, ::2, ::2]
    large = gray.repeat_interleave(3, 1).repeat_interleave(2, 2).half()
    made = steady_color(small, SteadyColorSettings(resolution=64), image=large)
    assert made.shape == large.shape
    assert made.dtype == torch.float16
    assert made.isfinite().all()
    assert (luminance(made.float()) - luminance(large.float())).abs().mean() < 0.1


def test_any_size_and_number():
    for size in ((1, 2, 2, 3), (2, 3, 71, 3), (3, 40, 17, 3)):
        made = steady_color(torch.rand(size, generator=torch.Generator().manual_seed(1)))
        assert made.shape == size
        assert made.isfinite().all()


def test_progress_is_told_before_the_first_frame_is_done():
    gray, true = shot(3, 5)
    told = []
    steady_color(true, image=gray, progress=lambda done, picture: told.append((done, picture is not None)))
    assert told[:5] == [(0, False)] * 5
    assert told[5:] == [(number, True) for number in range(1, 6)]

    class Stopped(Exception):
        pass

    def stop(done, picture):
        raise Stopped

    with pytest.raises(Stopped):
        steady_color(true, progress=stop)


def test_without_opencv_it_says_so(monkeypatch):
    monkeypatch.setattr(steady, "opencv", lambda: None)
    assert "OpenCV is not installed" in steady.notes()[0]


@pytest.mark.parametrize(
    ("changes_of", "message"),
    [
        ({"image": torch.rand(2, 8, 8, 3)}, r"image: found 2 for 3 colored frame\(s\), expected one for each"),
        ({"confidence": torch.rand(2, 8, 8)}, "confidence: found 2"),
        ({"settings": SteadyColorSettings(cuts="3")}, r"begins at frame 3, but there are 3 frame\(s\)"),
        ({"settings": SteadyColorSettings(cuts="a")}, "cuts: found 'a', expected numbers"),
    ],
)
def test_what_does_not_fit_is_refused(changes_of, message):
    with pytest.raises(ValueError, match=message):
        steady_color(torch.rand(3, 8, 8, 3), **changes_of)
