"""Half precision: edits are about as far off as plain attention of the same precision is, not several times as far."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from comfyui_exemplar.attention import fused
from comfyui_exemplar.attention.bank import FeatureBank
from comfyui_exemplar.attention.call import CROSS, AttentionCall, composed
from comfyui_exemplar.attention.dual import DualAttentionColor
from comfyui_exemplar.attention.dual_banks import DualBanks
from comfyui_exemplar.attention.dual_settings import DualAttentionSettings
from comfyui_exemplar.attention.fused import attend_with_bias, blend_after_softmax, blend_before_softmax, sdpa
from comfyui_exemplar.attention.image_tokens import ImageTokens, KeysValues

from . import naive

HALVES = (torch.float16, torch.bfloat16)
WIDTHS = (40, 64, 80, 160)  # of SD1.x and SDXL
HEADS = 4
#: How far off an edit may be, beside plain attention: nothing is rounded but what plain attention rounds as well, and
#: the half that counts less.
WORSE = 1.5


def off(found, exact):
    """Relative error of a result against one in float64."""
    return float((found.double() - exact).norm() / exact.norm())


def inputs(dtype, width, sharp, queries=192, keys=192):
    """Two pairs of queries and keys whose logits have the deviation sharp², and values."""
    sizes = ((queries, sharp), (keys, sharp), (queries, sharp), (keys, sharp), (keys, 1))
    return [(naive.rand(1, n, HEADS * width, seed=i) * by).to(dtype) for i, (n, by) in enumerate(sizes)]


def of_plain(q, k, v):
    """How far off plain attention is."""
    return off(sdpa(q, k, v, HEADS), naive.attention(q, k, v, HEADS))


def blended(q1, k1, q2, k2, v, gamma):
    logits = gamma * naive.logits(q1, k1, HEADS) + (1 - gamma) * naive.logits(q2, k2, HEADS)
    return naive.apply(logits.softmax(-1), v, HEADS)


# The sharper attention is, the more a rounded query is felt: at 6 the factors in q made it 7 to 8 times as bad.
@pytest.mark.parametrize(("gamma", "sharp"), [(0.5, 6), (0.5, 3), (0.2, 6), (0.8, 6), (0.3, 2), (0.7, 2), (0.9, 3)])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", HALVES)
def test_two_logits_in_one_softmax(dtype, width, gamma, sharp):
    case = inputs(dtype, width, sharp)
    found = off(blend_before_softmax(*case, gamma, HEADS, sdpa), blended(*case, gamma))
    assert found <= WORSE * of_plain(case[0], case[1], case[4])


@pytest.mark.parametrize("gamma", [0.3, 0.8])
@pytest.mark.parametrize("dtype", HALVES)
def test_two_softmaxes_are_rounded_once(dtype, gamma):
    q1, k1, q2, k2, v = inputs(dtype, 64, 1)
    first, second = sdpa(q1, k1, v, HEADS), sdpa(q2, k2, v, HEADS)
    found = blend_after_softmax(q1, k1, q2, k2, v, gamma, HEADS, sdpa)
    once = (gamma * first.double() + (1 - gamma) * second.double()).to(dtype)
    # both halves of the product rounded, and then the sum, is up to 1.45 times as far off
    exact = gamma * first.double() + (1 - gamma) * second.double()
    assert off(found, exact) <= 1.02 * off(once, exact)


@pytest.mark.parametrize("groups", [1, 3, 7, 8, 9])
@pytest.mark.parametrize("sharp", [1, 3])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", HALVES)
def test_a_bias(dtype, width, groups, sharp):
    q, k, _, _, v = inputs(dtype, width, sharp, keys=77)
    bias = 4 * (2 * torch.rand(1, 1, q.shape[1], groups, generator=torch.Generator().manual_seed(9)) - 1)
    member = F.one_hot(torch.arange(77) // 3, 26)[:, :groups].float()
    logits = naive.logits(q, k, HEADS) + bias.double() @ member.double().T
    exact = naive.apply(logits.softmax(-1), v, HEADS)
    assert off(attend_with_bias(q, k, v, bias, member, HEADS), exact) <= WORSE * of_plain(q, k, v)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("size", [1e4, 1e6, -1e6])
def test_a_bias_beyond_what_half_precision_holds(dtype, size):
    """All of attention, or nothing of it: not a number that is none."""
    q, k, _, _, v = inputs(dtype, 40, 1, queries=5, keys=6)
    member = torch.zeros(6, 2)
    member[1] = 1  # in two groups, so that both biases add up
    member[2:4, 0] = 1
    bias = torch.full((1, 1, 5, 2), size)
    exact = naive.logits(q, k, HEADS) + bias.double() @ member.double().T
    found = attend_with_bias(q, k, v, bias, member, HEADS)
    torch.testing.assert_close(found.double(), naive.apply(exact.softmax(-1), v, HEADS), atol=0.02, rtol=0)


def test_a_kernel_in_place_of_torchs_that_takes_no_scale(monkeypatch):
    """Packs put one there by hand; then the factor is in the queries, where any kernel heeds it."""
    case = inputs(torch.bfloat16, 64, 2)
    torchs, seen = F.scaled_dot_product_attention, []

    def ignoring(q, k, v, is_causal=False, **ignored):
        seen.append(ignored)
        return torchs(q, k, v)

    monkeypatch.setattr(F, "scaled_dot_product_attention", ignoring)
    found = blend_before_softmax(*case, 0.9, HEADS, sdpa)
    assert seen == [{}] and found.dtype == torch.bfloat16
    monkeypatch.undo()
    assert off(found, blended(*case, 0.9)) < 0.01


class TestNarrowValues:
    """Values that are narrower than keys: padded where a kernel wants equal widths, as they are where it does not."""

    @pytest.fixture
    def gpu(self, monkeypatch):
        """What torch would say to it on a GPU: ``gpu(flash widths, efficient)``."""

        def put(flash, efficient=True, hip=None):
            backends = torch.backends.cuda
            fused._efficient.cache_clear()
            monkeypatch.setattr(torch, "empty", lambda *size, device, dtype: torch.zeros(size, dtype=dtype))
            monkeypatch.setattr(torch.version, "hip", hip)
            monkeypatch.setattr(backends, "can_use_flash_attention", lambda asked: asked.query.shape[-1] in flash)
            monkeypatch.setattr(backends, "can_use_efficient_attention", lambda asked: efficient)

        yield put
        fused._efficient.cache_clear()

    CUDA = torch.device("cuda", 0)

    def test_flash_wants_them_wide(self, gpu):
        gpu(flash=range(257))
        assert not fused.takes_narrow(self.CUDA, torch.bfloat16, 160, 80)
        assert fused.takes_narrow(self.CUDA, torch.bfloat16, 320, 160)

    def test_without_flash(self, gpu):
        gpu(flash=())
        assert fused.takes_narrow(self.CUDA, torch.float32, 80, 40)

    def test_nothing_that_takes_them(self, gpu):
        gpu(flash=(), efficient=False)
        assert not fused.takes_narrow(self.CUDA, torch.bfloat16, 80, 40)
        gpu(flash=(), hip="7.0")
        assert not fused.takes_narrow(self.CUDA, torch.bfloat16, 80, 40)
        assert not fused.takes_narrow(torch.device("cpu"), torch.float32, 80, 40)

    def test_a_torch_that_is_asked_in_other_words(self, gpu, monkeypatch):
        gpu(flash=())

        def older(q, k, v, mask, dropout, causal):
            raise AssertionError

        monkeypatch.setattr(torch.backends.cuda, "SDPAParams", older)
        assert not fused.takes_narrow(self.CUDA, torch.bfloat16, 80, 40)

    @pytest.mark.parametrize("takes", [True, False])
    def test_the_numbers_are_the_same(self, takes, monkeypatch):
        q, k, _, _, v = inputs(torch.float32, 8, 1, queries=5, keys=7)
        v = v.unflatten(-1, (HEADS, -1))[..., :3].flatten(2)
        seen, torchs = [], F.scaled_dot_product_attention
        monkeypatch.setattr(fused, "takes_narrow", lambda *asked: takes)
        monkeypatch.setattr(fused, "torchs_own", lambda: True)
        monkeypatch.setattr(
            F, "scaled_dot_product_attention", lambda *qkv: seen.append(qkv[2].shape[-1]) or torchs(*qkv)
        )
        found = sdpa(q, k, v, HEADS)
        assert seen == [3 if takes else 8] and found.shape == (1, 5, HEADS * 3)
        torch.testing.assert_close(found.double(), naive.attention(q, k, v, HEADS), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", HALVES)
def test_an_edit_over_another_one_is_rounded_once(dtype):
    call = naive.call(tokens=64, width=320)
    halved = {name: getattr(call, name).to(dtype) for name in "qkv"}
    call = dataclasses.replace(call, **halved, alone=False)
    before, edited = (naive.rand(1, 64, 320, seed=i).to(dtype) for i in (8, 9))
    exact = before.double() + edited.double() - call.plain().double()
    found = composed(call, lambda _: before, edited)
    assert found.dtype == dtype and off(found, exact) <= 1.02 * off(exact.to(dtype), exact)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("dtype", HALVES)
def test_the_strength_of_injection_is_what_was_asked_for(dtype, masked):
    # without anything of the running picture, so that only the share is rounded
    settings = DualAttentionSettings(gamma_deep=1.0, beta_deep=0.0, strength=0.9)
    call = naive.call(tokens=64, width=320, grid=(8, 8))
    bank = FeatureBank()
    bank.put(call.sigma, call.layer, call.grid, q=call.q, k=call.k, v=20 * call.v)
    call = dataclasses.replace(call, **{name: getattr(call, name).to(dtype) for name in "qkv"})
    mask = torch.ones(1, 8, 8) if masked else None
    banks, layers = DualBanks(bank, bank, bank), {call.layer: False}
    edit = DualAttentionColor(settings, layers, banks, mask)
    whole = DualAttentionColor(dataclasses.replace(settings, strength=1.0), layers, banks)
    found = edit(call, AttentionCall.plain)
    exact = torch.lerp(call.plain().double(), whole(call, AttentionCall.plain).double(), 0.9)
    assert found.dtype == dtype and off(found, exact) <= 1.05 * off(exact.to(dtype), exact)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("dtype", HALVES)
def test_a_share_of_image_tokens_is_what_was_asked_for(dtype, masked):
    """0.9 in bfloat16 is 0.8984: as far off again as rounding the result is."""
    call = dataclasses.replace(naive.call(tokens=64, width=320, grid=(8, 8)), kind=CROSS)
    call = dataclasses.replace(call, **{name: getattr(call, name).to(dtype) for name in "qkv"})
    # values that change much, so that their share is felt
    pair = KeysValues(naive.rand(1, 4, 320, seed=5), 20 * naive.rand(1, 4, 320, seed=6))
    mask = torch.ones(1, 8, 8) if masked else None
    edit = ImageTokens({call.layer: pair}, 0.9, mask=mask, text_tokens=64)
    outs = [call.plain().double()]
    found = edit(call, lambda asked: asked.plain())
    outs.append(ImageTokens({call.layer: pair}, text_tokens=64)(call, lambda asked: asked.plain()).double())
    exact = torch.lerp(outs[0], outs[1], 0.9)
    assert found.dtype == dtype and off(found, exact) <= 1.05 * off(exact.to(dtype), exact)
