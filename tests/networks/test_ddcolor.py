"""DDColor's network at a small size, against plain functions written from its description."""

import pytest
import torch

from comfyui_exemplar.networks.ddcolor import model as ddcolor
from comfyui_exemplar.networks.ddcolor.load import build
from comfyui_exemplar.networks.ddcolor.model import blur, sine_position, working_bytes

from ..fixtures.ddcolor import SIZES, small_weights


@pytest.fixture(scope="module")
def weights():
    return small_weights()


@pytest.fixture(scope="module")
def network(weights):
    return build(weights)[0]


@pytest.fixture(scope="module")
def naive(weights):
    from bench.naive_ddcolor import NaiveDDColor

    return NaiveDDColor(weights, SIZES)


def picture(batch=1, height=64, width=96, seed=0):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 32), (64, 96), (160, 32)])
def test_equals_the_description(network, naive, size):
    """Folded norms, fused attention and the other order of the last steps change nothing."""
    x = picture(2, *size)
    found, expected = network(x), torch.cat([naive(x[:1]), naive(x[1:])])
    assert found.shape == (2, 2, *size) and found.dtype == torch.float32
    assert float(expected.std()) > 1
    assert float((found - expected).abs().max()) < 1e-4 * float(expected.abs().max())


@torch.no_grad()
def test_slices_change_nothing(network, monkeypatch):
    x = picture(2)
    whole = network(x)
    monkeypatch.setattr(ddcolor, "CPU_SLICE", 5 * 2 * 16 * SIZES.last)  # five places of both pictures
    torch.testing.assert_close(network(x), whole, atol=1e-4, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 0.04), (torch.float16, 0.005)])
def test_half_precision(weights, network, dtype, tolerance):
    half = build(weights)[0].to(dtype)
    x = picture()
    found, expected = half(x), network(x)
    assert found.dtype == torch.float32
    assert float((found - expected).abs().mean()) < tolerance * float(expected.std())


@torch.no_grad()
def test_memory_layout_changes_nothing(weights, network):
    other = build(weights)[0].to(memory_format=torch.channels_last)
    torch.testing.assert_close(other(picture()), network(picture()), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("size", [(48, 64), (64, 100), (0, 32)])
def test_sides_that_do_not_fit(network, size):
    with pytest.raises(ValueError, match=rf"{size[1]} x {size[0]} pixels.*multiples of 32"):
        network(picture(1, *size))


def test_gradients_reach_every_number(weights):
    """It can be trained as it is: nothing works in place on what a gradient needs."""
    network = build(weights)[0].requires_grad_(True)
    network(picture(1, 32, 32)).square().mean().backward()
    missing = [
        name for name, p in network.named_parameters() if p.grad is None or not bool(torch.isfinite(p.grad).all())
    ]
    assert not missing


def test_position_code_tells_rows_and_columns():
    code = sine_position(5, 7, 16, torch.zeros(1))
    assert code.shape == (1, 16, 5, 7)
    assert bool((code[:, :8] == code[:, :8, :, :1]).all()) and bool((code[:, 8:] == code[:, 8:, :1]).all())
    assert len({tuple(column.tolist()) for column in code[0].flatten(1).T}) == 35


def test_blur_is_the_mean_of_four():
    x = torch.arange(6.0).view(1, 1, 2, 3)
    assert blur(x).flatten().tolist() == [0, 0.5, 1.5, 1.5, 2, 3]


def test_working_bytes():
    """More for more and larger pictures, half for half the precision; never nothing."""
    always = working_bytes(SIZES, 0, 512, 512, 4)
    one = working_bytes(SIZES, 1, 512, 512, 4) - always
    assert working_bytes(SIZES, 3, 512, 512, 4) - always == pytest.approx(3 * one, rel=1e-6)
    assert working_bytes(SIZES, 4, 256, 256, 4) - always == pytest.approx(one, rel=1e-6)
    assert working_bytes(SIZES, 1, 512, 512, 2) - working_bytes(SIZES, 0, 512, 512, 2) == pytest.approx(
        one / 2, rel=1e-6
    )
    # a map of the finest width alone
    assert one > SIZES.widths[0] * 128 * 128 * 4 and always > 0
