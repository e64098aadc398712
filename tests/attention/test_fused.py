"""Blended attention: the same numbers as with maps spelled out, without ever building a map."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from comfyui_exemplar.attention.fused import (
    attend_with_bias,
    blend_after_softmax,
    blend_before_softmax,
    by_head,
    sdpa,
)

from . import naive

GAMMAS = (0.0, 0.3, 0.5, 1.0)
SHAPES = [  # queries, keys, heads, width of a head
    (6, 6, 1, 4),
    (5, 9, 2, 8),
    (16, 3, 4, 5),
    (1, 7, 3, 40),
]


def inputs(queries, keys, heads, width, batch=2):
    q1, q2 = (naive.rand(batch, queries, heads * width, seed=i) for i in (1, 2))
    k1, k2, v = (naive.rand(batch, keys, heads * width, seed=i) for i in (3, 4, 5))
    return q1, k1, q2, k2, v


@pytest.mark.parametrize("shape", SHAPES)
def test_sdpa(shape):
    q, k, _, _, v = inputs(*shape)
    torch.testing.assert_close(sdpa(q, k, v, shape[2]).double(), naive.attention(q, k, v, shape[2]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("shape", SHAPES)
def test_before_softmax_is_one_softmax_of_mixed_logits(shape, gamma):
    q1, k1, q2, k2, v = inputs(*shape)
    heads = shape[2]
    mixed = gamma * naive.logits(q1, k1, heads) + (1 - gamma) * naive.logits(q2, k2, heads)
    found = blend_before_softmax(q1, k1, q2, k2, v, gamma, heads, sdpa)
    torch.testing.assert_close(found.double(), naive.apply(mixed.softmax(-1), v, heads), atol=1e-5, rtol=0)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("shape", SHAPES)
def test_after_softmax_is_a_mixture_of_two_softmaxes(shape, gamma):
    q1, k1, q2, k2, v = inputs(*shape)
    heads = shape[2]
    mixed = gamma * naive.logits(q1, k1, heads).softmax(-1) + (1 - gamma) * naive.logits(q2, k2, heads).softmax(-1)
    found = blend_after_softmax(q1, k1, q2, k2, v, gamma, heads, sdpa)
    torch.testing.assert_close(found.double(), naive.apply(mixed, v, heads), atol=1e-5, rtol=0)


def test_the_two_mixes_differ_between_the_ends():
    case = inputs(5, 9, 2, 8)
    before, after = (blend(*case, 0.5, 2, sdpa) for blend in (blend_before_softmax, blend_after_softmax))
    assert (before - after).abs().max() > 0.05


@pytest.mark.parametrize("blend", [blend_before_softmax, blend_after_softmax])
def test_at_the_ends_the_unused_pair_may_be_missing(blend):
    q1, k1, q2, k2, v = inputs(5, 9, 2, 8)
    assert torch.equal(blend(q1, k1, q2, None, v, 1.0, 2, sdpa), sdpa(q1, k1, v, 2))
    assert torch.equal(blend(None, None, q2, k2, v, 0.0, 2, sdpa), sdpa(q2, k2, v, 2))


class Recorder(TorchDispatchMode):
    """The size of the largest tensor that any operation makes, and which operations ran."""

    def __init__(self):
        super().__init__()
        self.largest, self.names = 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.names.add(func.name())
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


@pytest.mark.parametrize("blend", [blend_before_softmax, blend_after_softmax])
def test_no_map_is_built_and_the_flash_kernel_runs(blend):
    queries, keys, heads, width = 640, 800, 2, 8
    case = inputs(queries, keys, heads, width, batch=1)
    with torch.no_grad(), Recorder() as seen:
        blend(*case, 0.5, heads, sdpa)
    # the widest thing that is needed: keys of both pairs side by side
    assert seen.largest <= 2 * keys * heads * width < heads * queries * keys / 10, seen.largest
    assert any("flash" in name for name in seen.names), seen.names
    assert not any("softmax" in name or "bmm" in name for name in seen.names), seen.names


def test_the_recorder_sees_a_map_when_there_is_one():
    """Narrow values are what the padding is for: with them torch spells the map out."""
    q, k, _, _, v = (None if t is None else by_head(t, 2) for t in inputs(640, 800, 2, 8, batch=1))
    with torch.no_grad(), Recorder() as seen:
        F.scaled_dot_product_attention(torch.cat([q, q], -1), torch.cat([k, k], -1), v)
    assert seen.largest >= 2 * 640 * 800


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_itself_and_near(dtype):
    case = inputs(5, 9, 2, 8)
    exact = blend_before_softmax(*case, 0.3, 2, sdpa)
    found = blend_before_softmax(*(t.to(dtype) for t in case), 0.3, 2, sdpa)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), exact, atol=0.05, rtol=0)


@pytest.mark.parametrize("groups", [1, 3, 9])
@pytest.mark.parametrize("by_head", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_bias_that_groups_of_keys_share(shape, by_head, groups):
    q, k, _, _, v = inputs(*shape)
    heads = shape[2]
    bias = 3 * naive.rand(2, heads if by_head else 1, shape[0], groups, seed=8)
    member = (naive.rand(shape[1], groups, seed=9) > 0).float()
    found = attend_with_bias(q, k, v, bias, member, heads)
    logits = naive.logits(q, k, heads) + bias.double() @ member.double().T
    torch.testing.assert_close(found.double(), naive.apply(logits.softmax(-1), v, heads), atol=1e-5, rtol=0)
