"""Heat, warp and match against maps spelled out."""

import pytest
import torch

from comfyui_exemplar.attention import correspondence
from comfyui_exemplar.attention.correspondence import confidence, correspond, heat, warp

from . import naive

HEADS, WIDTH = 2, 6
SIZES = [(7, 5), (1, 4), (9, 9)]


def case(queries, keys, seed=0):
    return naive.rand(queries, HEADS * WIDTH, seed=seed), naive.rand(keys, HEADS * WIDTH, seed=seed + 1)


def weights(q, k):
    """(N, M) averaged over heads, float64."""
    return naive.logits(q[None], k[None], HEADS).softmax(-1)[0].mean(0)


@pytest.fixture(autouse=True, params=[3, 256], ids=["many slices", "one slice"])
def slices(request, monkeypatch):
    """Every test runs with its queries cut into slices of 3 as well."""
    monkeypatch.setattr(correspondence, "SLICE", request.param)


@pytest.mark.parametrize("sizes", SIZES)
class TestHeat:
    def test_one_place(self, sizes):
        q, k = case(*sizes)
        for place in range(sizes[0]):
            weight = torch.zeros(sizes[0])
            weight[place] = 3.0
            found = heat(q, k, HEADS, weight)
            torch.testing.assert_close(found.double(), weights(q, k)[place], atol=1e-6, rtol=0)

    def test_a_weighted_region_sums_to_one(self, sizes):
        q, k = case(*sizes)
        weight = torch.arange(sizes[0]).float() + (sizes[0] == 1)
        found = heat(q, k, HEADS, weight)
        expected = (weight.double() / weight.sum()) @ weights(q, k)
        torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=0)
        assert found.sum().item() == pytest.approx(1, abs=1e-5) and found.shape == (sizes[1],)


def test_heat_of_nothing():
    with pytest.raises(ValueError, match="mask: found one that covers nothing"):
        heat(*case(4, 4), HEADS, torch.zeros(4))


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("channels", [1, 3, WIDTH])
def test_warp(sizes, channels):
    q, k = case(*sizes)
    values = naive.rand(sizes[1], channels, seed=9)
    found = warp(q, k, HEADS, values)
    assert found.shape == (sizes[0], channels)
    torch.testing.assert_close(found.double(), weights(q, k) @ values.double(), atol=1e-6, rtol=0)


def test_warp_of_too_many_channels():
    with pytest.raises(ValueError, match=f"{WIDTH + 1} value channels do not fit into heads of width {WIDTH}"):
        warp(*case(4, 4), HEADS, torch.zeros(4, WIDTH + 1))


@pytest.mark.parametrize("sizes", SIZES)
def test_correspond(sizes):
    q, k = case(*sizes)
    values, full = naive.rand(sizes[1], 3, seed=9), weights(q, k)
    match = correspond(q, k, HEADS, values)
    torch.testing.assert_close(match.soft.double(), full @ values.double(), atol=1e-6, rtol=0)
    assert torch.equal(match.index, full.argmax(-1))
    assert torch.equal(match.hard, values[full.argmax(-1)])
    entropy = -(full * full.log()).sum(-1)
    expected = 1 - entropy / torch.tensor(float(sizes[1])).log()
    torch.testing.assert_close(match.confidence.double(), expected, atol=1e-5, rtol=0)


class TestConfidence:
    def test_zero_when_attention_is_spread_evenly(self):
        q, _ = case(7, 5)
        match = correspond(q, torch.zeros(5, HEADS * WIDTH), HEADS, torch.eye(5)[:, :3])
        torch.testing.assert_close(match.confidence, torch.zeros(7), atol=1e-5, rtol=0)
        torch.testing.assert_close(match.soft, torch.full((7, 3), 0.2))

    def test_one_when_it_rests_on_one_token(self):
        keys = 40 * torch.eye(5, HEADS * WIDTH).repeat_interleave(1, 0)
        keys[:, WIDTH:] = keys[:, :WIDTH]  # both heads agree
        order = torch.tensor([3, 0, 4, 1, 1, 2, 0])
        match = correspond(keys[order], keys, HEADS, torch.arange(5.0)[:, None])
        torch.testing.assert_close(match.confidence, torch.ones(7), atol=1e-5, rtol=0)
        assert torch.equal(match.index, order) and torch.equal(match.hard[:, 0], order.float())
        torch.testing.assert_close(match.soft[:, 0], order.float())

    def test_a_reference_of_one_token_is_no_reason_to_fail(self):
        match = correspond(*case(4, 1), HEADS, torch.tensor([[2.0, 3.0]]))
        assert torch.equal(match.hard, torch.tensor([[2.0, 3.0]]).expand(4, 2))
        assert bool(torch.isfinite(match.confidence).all()) and bool((match.confidence == 1).all())


def test_half_precision_features_give_float_answers():
    q, k = case(7, 5)
    values = naive.rand(5, 3, seed=9)
    match = correspond(q.half(), k.half(), HEADS, values)
    assert match.soft.dtype == match.confidence.dtype == torch.float32
    torch.testing.assert_close(match.soft, correspond(q, k, HEADS, values).soft, atol=5e-3, rtol=0)
    assert heat(q.half(), k.half(), HEADS, torch.ones(7)).dtype == torch.float32
    assert warp(q.half(), k.half(), HEADS, values).dtype == torch.float32


@pytest.mark.parametrize("sizes", SIZES)
def test_confidence_alone(sizes):
    q, k = case(*sizes)
    rows = weights(q, k)
    expected = 1 + (rows * rows.log()).sum(-1) / torch.tensor(float(sizes[1])).log().clamp_min(1e-6)
    torch.testing.assert_close(confidence(q, k, HEADS).double(), expected.clamp(0, 1), atol=1e-5, rtol=0)
    assert torch.equal(confidence(q, k, HEADS), correspond(q, k, HEADS, torch.rand(sizes[1], 3)).confidence)
