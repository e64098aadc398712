"""ComfyUI's attention functions as edits call them, on cores with and without a layer's own preference."""

from types import SimpleNamespace

import pytest
import torch
from comfy.ldm.modules.attention import attention_pytorch, optimized_attention

from comfyui_exemplar.hosts.comfy import attention


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(3, 2, 5, 8, generator=generator).unbind()


@pytest.fixture
def called(monkeypatch):
    """What the core's attention function is called with: ``called(function)`` puts one in its place."""
    seen = []

    def put(function):
        def remembering(*args, **kw):
            seen.append(kw)
            return function(*args, **kw)

        remembering.__wrapped__ = function  # as the core's own wrapper: its signature is the inner function's
        monkeypatch.setattr(attention, "optimized_attention", remembering)
        monkeypatch.setattr(attention, "attention_pytorch", remembering)
        return seen

    return put


def with_preference(q, k, v, heads, mask=None, attn_precision=None, transformer_options=None, preferred_attention=None):
    return preferred_attention(q, k, v) if preferred_attention else attention_pytorch(q, k, v, heads)


def without_preference(q, k, v, heads, mask=None, attn_precision=None, transformer_options=None):
    return attention_pytorch(q, k, v, heads)


def test_a_layers_preference_reaches_cores_that_know_it(rows, called):
    called(with_preference)

    def doubled(q, k, v):
        return v * 2

    for options, preferred in (({"preferred_attention": doubled}, None), ({}, doubled)):
        out = attention.plain_attention(*rows, {"n_heads": 2, **options}, preferred)
        assert torch.equal(out, rows[2] * 2)
        assert torch.equal(attention.fused_attention(options, preferred)(*rows, 2), rows[2] * 2)


def test_it_is_kept_from_cores_that_do_not(rows, called):
    seen = called(without_preference)
    expected = attention_pytorch(*rows, 2)
    options = {"n_heads": 2, "preferred_attention": object()}
    assert torch.equal(attention.plain_attention(*rows, options), expected)
    assert torch.equal(attention.fused_attention(options)(*rows, 2), expected)
    assert all(set(kw) == {"attn_precision", "transformer_options"} for kw in seen)


def test_nothing_is_passed_where_nothing_is_preferred(rows, called):
    seen = called(with_preference)
    attention.plain_attention(*rows, {"n_heads": 2})
    assert set(seen[0]) == {"attn_precision", "transformer_options"}


def test_plain_attention_is_the_cores_own(rows):
    expected = optimized_attention(*rows, 2, attn_precision=None, transformer_options={})
    assert torch.equal(attention.plain_attention(*rows, {"n_heads": 2}), expected)


def test_a_layers_preference_is_what_newer_cores_call_it():
    preferred = object()
    assert attention.preference(SimpleNamespace(comfy_attention=preferred)) is preferred
    assert attention.preference(torch.nn.Linear(1, 1)) is None
