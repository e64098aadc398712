"""Steady Color within ComfyUI: what it gives, what it refuses, how it is stopped."""

import comfy.model_management as mm
import pytest
import torch

from comfyui_exemplar.color import desaturate, luminance, rgb_to_lab
from comfyui_exemplar.demo import ExampleSettings, example_paths
from comfyui_exemplar.files.pictures import load_picture
from comfyui_exemplar.pipelines import steady


@pytest.fixture(scope="module")
def truth():
    """Five frames of a pan over a photograph, (5, 96, 128, 3)."""
    picture = load_picture(example_paths(ExampleSettings("photo"))[1])
    return torch.cat([picture[:, 60 : 60 + 96, 80 + 2 * n : 208 + 2 * n] for n in range(5)])


@pytest.fixture(scope="module")
def colored(truth):
    gains = 1 + 0.1 * torch.randn(5, 1, 1, 3, generator=torch.Generator().manual_seed(1))
    return (truth * gains).clamp(0, 1)


@pytest.fixture(autouse=True)
def released():
    """The switch is off before and after."""
    mm.interrupt_current_processing(False)
    yield
    mm.interrupt_current_processing(False)


def changes(frames):
    return rgb_to_lab(frames)[..., 1:].mean((1, 2)).diff(dim=0).norm(dim=-1).mean()


def test_steady_frames_with_the_gray_ones_lightness(nodes, truth, colored):
    (made,) = nodes("ExemplarSteadyColor", color_image=colored, image=desaturate(truth))
    assert made.shape == truth.shape
    assert changes(made) < 0.3 * changes(colored)
    assert (luminance(made) - luminance(truth)).abs().max() < 0.05
    (alone,) = nodes("ExemplarSteadyColor", color_image=colored, confidence=torch.ones(1, 8, 8))
    assert (luminance(alone) - luminance(colored)).abs().max() < 0.05


@pytest.mark.parametrize("moment", [1, 4, 7, 10])
def test_it_stops_at_any_frame(nodes, truth, colored, moment, monkeypatch):
    from comfyui_exemplar.nodes import common

    inputs = {"color_image": colored, "image": desaturate(truth)}
    expected = nodes("ExemplarSteadyColor", **inputs)
    stop, asked = common.stop_if_canceled, []

    def pressed():
        asked.append(1)
        if len(asked) == moment:
            mm.interrupt_current_processing()
        stop()

    with monkeypatch.context() as patched:
        patched.setattr(common, "stop_if_canceled", pressed)
        with pytest.raises(mm.InterruptProcessingException):
            nodes("ExemplarSteadyColor", **inputs)
    assert len(asked) == moment
    mm.interrupt_current_processing(False)
    assert torch.equal(nodes("ExemplarSteadyColor", **inputs)[0], expected[0])


def test_what_it_refuses(nodes, truth, colored):
    with pytest.raises(ValueError, match=r"Steady Color: image: found 2 for 5 colored frame\(s\)"):
        nodes("ExemplarSteadyColor", color_image=colored, image=truth[:2])
    with pytest.raises(ValueError, match="Steady Color: confidence: found 3"):
        nodes("ExemplarSteadyColor", color_image=colored, confidence=torch.ones(3, 8, 8))
    with pytest.raises(ValueError, match="Steady Color: cuts: found 'x', expected numbers"):
        nodes("ExemplarSteadyColor", color_image=colored, cuts="x")


def test_without_opencv_it_says_so(nodes, colored, monkeypatch, caplog):
    monkeypatch.setattr(steady, "opencv", lambda: None)
    with caplog.at_level("WARNING"):
        nodes("ExemplarSteadyColor", color_image=colored)
    assert "Steady Color: OpenCV is not installed" in caplog.text
