"""ComfyUI's attention functions as edits call them, on cores with and without a layer's own preference."""

from types import SimpleNamespace

import pytest
import torch
from comfy.ldm.modules.attention import attention_pytorch, optimized_attention

from comfyui_exemplar.attention.call import CROSS, SELF
from comfyui_exemplar.attention.layers import Layer
from comfyui_exemplar.hosts.comfy import attention, calls
from comfyui_exemplar.hosts.comfy.model import attention_layers

from .models import tiny
from .sampling import run


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


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_layer_is_found_by_its_place(family):
    model = tiny(family)
    unet = model.get_model_object("diffusion_model")
    layers = [info.layer for info in attention_layers(model)]
    assert all(attention.preference_of(unet, layer, kind) is None for layer in layers for kind in (SELF, CROSS))
    for module in unet.modules():
        if type(module).__name__ == "BasicTransformerBlock":
            module.attn1.comfy_attention, module.attn2.comfy_attention = object(), object()
    found = [attention.preference_of(unet, layer, kind) for layer in layers for kind in (SELF, CROSS)]
    assert None not in found and len({id(one) for one in found}) == 2 * len(layers)


def test_the_cores_setter_is_used_where_there_is_one(rows):
    """All attention of the clone is that function; the MODEL stays as it is."""
    model = tiny("sd1")
    patched = attention.attending(model, lambda q, k, v, heads, **_: v * 3)
    options = {"n_heads": 2, **patched.model_options["transformer_options"]}
    assert torch.equal(attention.plain_attention(*rows, options), rows[2] * 3)
    assert "optimized_attention_override" not in model.model_options["transformer_options"]


def test_an_edited_layer_keeps_its_preference(embedded, inverted, injected, monkeypatch):
    """Half of it is plain attention: with the kernel that this layer, and no other, asks for."""
    layer, kernel, seen = Layer("output", 3), object(), []
    stack = next(m for m in embedded[0].model.diffusion_model.output_blocks[3] if hasattr(m, "transformer_blocks"))
    monkeypatch.setattr(stack.transformer_blocks[0].attn1, "comfy_attention", kernel, raising=False)

    def plain(q, k, v, options, preferred=None):
        seen.append((options["block"], preferred))
        return attention.plain_attention(q, k, v, options)

    monkeypatch.setattr(calls, "plain_attention", plain)
    _, noised, sigmas, _ = inverted["input"]
    run(injected(strength=0.5, layers="output.3-4"), embedded[3], noised, sigmas)
    assert {preferred for block, preferred in seen if block == ("output", layer.index)} == {kernel}
    assert {preferred for block, preferred in seen if block == ("output", 4)} == {None}


def test_a_layer_that_a_unet_does_not_have_prefers_nothing(embedded):
    unet = embedded[0].model.diffusion_model
    for layer in (Layer("output", 99), Layer("output", 3, 9), Layer("input", 0)):
        assert attention.preference_of(unet, layer) is None
