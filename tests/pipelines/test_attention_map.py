"""Maps of where attention looks, from banks whose answer is known."""

import pytest
import torch

from comfyui_exemplar.attention.bank import FeatureBank
from comfyui_exemplar.attention.layers import Layer, LayerInfo
from comfyui_exemplar.color import resize
from comfyui_exemplar.diffusion.inversion import Inversion
from comfyui_exemplar.diffusion.schedule import inversion_plan
from comfyui_exemplar.pipelines import attention_map
from comfyui_exemplar.pipelines.attention_map import AttentionMapSettings, attention_maps, shared_layers

LAYER, FINE = Layer("output", 0), Layer("output", 1)
INFOS = (LayerInfo(LAYER, 16, 1, 2), LayerInfo(FINE, 16, 1, 1))
PLAN = inversion_plan(torch.arange(1.0, 1001.0) / 100, 50, 2)


def inversion(letters="qk", order=range(16), sharpness=400.0, layers=(LAYER,), pictures=1):
    """Sixteen tokens on a 4 x 4 grid; token i has a one at its own place, so that equal numbers find each other."""
    bank = FeatureBank()
    tokens = sharpness**0.5 * torch.eye(16)[list(order)][None].repeat(pictures, 1, 1)
    for sigma in PLAN.kept_sigmas:
        for layer in layers:
            bank.put(sigma, layer, (4, 4), **dict.fromkeys(letters, tokens))
    return Inversion(PLAN, torch.zeros(3, pictures, 4, 8, 8), bank, "tiny", INFOS)


def squares(seed=0):
    """(1, 32, 32, 3): a color a token."""
    colors = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return colors.repeat_interleave(8, 2).repeat_interleave(8, 3).movedim(1, -1)


AT = AttentionMapSettings(0.1, 0.1)

TURNED = list(range(15, -1, -1))  # the reference holds the same things upside down


def test_a_point_finds_its_counterpart():
    maps = attention_maps(inversion(), inversion(order=TURNED), squares(), squares(1), AT)
    assert maps.heat.shape == (1, 32, 32) and maps.heat.max() == pytest.approx(1)
    assert maps.heat[0, 28, 28] > 0.99 and maps.heat[0, :16, :16].max() < 0.01  # top left looks at bottom right
    assert maps.shown.shape[1] == 32 and maps.shown.shape[2] > 64


def test_a_region_finds_all_of_its_counterparts():
    region = torch.zeros(1, 4, 4)
    region[:, 0] = 1  # the top row
    maps = attention_maps(inversion(), inversion(order=TURNED), squares(), squares(1), region=region)
    assert maps.heat[0, 28, ::8].min() > 0.8 and maps.heat[0, :16].max() < 0.1


@pytest.mark.parametrize("carry", ["soft", "hard"])
def test_the_reference_is_carried_over(carry):
    reference = squares(1)
    maps = attention_maps(inversion(), inversion(order=TURNED), squares(), reference, AttentionMapSettings(carry=carry))
    centers = maps.carried[0, 4::8, 4::8]
    expected = resize(reference, (4, 4))[0].flip(0, 1)  # turned by half
    tolerance = 1e-5 if carry == "hard" else 0.08  # soft colors are spread bilinearly, half a pixel off the centers
    torch.testing.assert_close(centers, expected, atol=tolerance, rtol=0)
    assert maps.carried.shape == (1, 32, 32, 3) and maps.confidence.min() > 0.95


def test_no_match_no_confidence():
    maps = attention_maps(inversion(sharpness=1e-6), inversion(), squares(), squares(1))
    assert maps.confidence.max() < 0.01 and maps.heat.min() > 0.99


def test_the_picture_of_a_batch():
    source, target = inversion(pictures=2), inversion(order=TURNED, pictures=1)
    maps = attention_maps(source, target, squares(), squares(1), AttentionMapSettings(0.1, 0.1, picture=1))
    assert maps.heat[0, 28, 28] > 0.99


def test_an_empty_region():
    with pytest.raises(ValueError, match="mask: found one that covers nothing"):
        attention_maps(inversion(), inversion(), squares(), squares(1), region=torch.zeros(1, 4, 4))


class TestLayers:
    def test_those_that_both_kept(self):
        both = shared_layers(inversion("q", layers=(LAYER, FINE)), inversion("k", layers=(FINE,)), "decoder")
        assert [info.layer for info in both] == [FINE]

    @pytest.mark.parametrize("source, target, layers", [("k", "k", "coarse"), ("q", "v", "coarse"), ("q", "k", "fine")])
    def test_none(self, source, target, layers):
        with pytest.raises(ValueError, match=f"layers is '{layers}': found none of them with both.*Kept q: .*kept k: "):
            shared_layers(inversion(source), inversion(target), layers)


class Short:
    """Memory for some query tokens of a function of queries, keys and more."""

    def __init__(self, function, most):
        self.function, self.most, self.asked = function, most, []

    def __call__(self, q, k, heads, values, bias):
        # a heat map is computed of the tokens that have a weight
        tokens = int((values > 0).sum()) if values.ndim == 1 else len(q)
        self.asked.append(tokens)
        if tokens > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.function(q, k, heads, values, bias)


@pytest.mark.parametrize("most", [1, 5])
@pytest.mark.parametrize("place", [None, AT, "region"])
def test_fewer_tokens_at_once_and_the_same_maps(monkeypatch, most, place):
    region = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(2)) if place == "region" else None
    given = (inversion(sharpness=3.0), inversion(order=TURNED, sharpness=3.0), squares(), squares(1))
    settings = place if place is AT else None
    expected = attention_maps(*given, settings, region=region)
    matches, heats = Short(attention_map.correspond, most), Short(attention_map.heat, most)
    monkeypatch.setattr(attention_map, "correspond", matches)
    monkeypatch.setattr(attention_map, "heat", heats)
    found = attention_maps(*given, settings, region=region)
    assert max(matches.asked) == 16 and min(matches.asked) <= most
    assert max(heats.asked) == (16 if place == "region" else 1)
    for name in ("shown", "heat", "carried", "confidence"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-5, atol=1e-6)


def test_a_token_that_is_too_much_is_said(monkeypatch):
    monkeypatch.setattr(attention_map, "correspond", Short(attention_map.correspond, 0))
    with pytest.raises(torch.OutOfMemoryError):
        attention_maps(inversion(), inversion(), squares(), squares(1), AT)
