"""Which of ComfyUI's attention functions runs an edit's call: heads twice as wide, narrow values, a scale of its own.

No kernel for a GPU is at hand. Functions named as the core's stand in for them, on a device that is not there: each
computes what it says, and refuses what the real one refuses.
"""

import logging
import math
import re
from pathlib import Path
from types import SimpleNamespace

import comfy.ldm.modules.attention as core
import pytest
import torch
import torch.nn.functional as F

from comfyui_exemplar.attention.fused import blend_before_softmax, by_head
from comfyui_exemplar.hosts.comfy import attention
from comfyui_exemplar.hosts.comfy.attention import KERNELS, fused_attention, serving

from ...fixtures.pretended_gpu import PretendedGPU, from_gpu, to_gpu
from .models import tiny

HEADS = 2
#: Widths of heads doubled: SD1.x and L-CAD (40, 80, 160), SD2.x and SDXL (64).
DOUBLED = (80, 128, 160, 320)
GAMMAS = (0.5, 0.9)
#: What the real functions refuse and heed: widths of heads, half precision alone, a scale.
REAL = {
    "attention_pytorch": (range(9999), False, True),
    "attention_basic": (range(9999), False, True),
    "attention_split": (range(9999), False, True),
    "attention_sub_quad": (range(9999), False, True),
    "attention_xformers": (range(257), False, True),
    "attention_flash": (range(257), True, True),
    "attention_sage": (range(129), True, True),
    "attention3_sage": ((32, 64, 128), True, False),
    "attention_comfy_kitchen_int8": (range(257), False, True),
    "attention_of_a_newer_core": (range(257), False, False),
}
#: Those that are handed a scale: sub-quad would multiply the queries by it, which rounds them.
HANDED = [name for name, (_, _, heeds) in REAL.items() if heeds and name != "attention_sub_quad"]
#: Rounding the queries of logits of this size once leaves bfloat16 that far off; a wrong scale is off by 0.15 and more.
NEAR = 0.02


def rand(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def case(width, dtype=torch.bfloat16):
    """Two pairs of queries and keys, and values, for heads of a width."""
    return [rand(1, 24, HEADS * width, seed=i).to(dtype) for i in range(5)]


def exact(q1, k1, q2, k2, v, gamma):
    q1, k1, q2, k2, v = (by_head(t, HEADS).double() for t in (q1, k1, q2, k2, v))
    logits = (gamma * q1 @ k1.mT + (1 - gamma) * q2 @ k2.mT) / math.sqrt(q1.shape[-1])
    return (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)


def off(found, wanted):
    return float((found.double() - wanted).norm() / wanted.norm())


def attended(q, k, v, heads, scale=None):
    """Attention as such a function computes it, on three dimensions or four."""
    split = (by_head(t, heads) for t in (q, k, v)) if q.ndim == 3 else (q, k, v)
    out = F.scaled_dot_product_attention(*split, **({} if scale is None else {"scale": scale}))
    return out.transpose(1, 2).flatten(2) if q.ndim == 3 else out


class Stand:
    """A function of the core that is not there, and what it was called with."""

    def __init__(self, name):
        self.name, self.seen = name, []
        widths, halves, heeds = REAL[name]

        def function(q, k, v, heads, mask=None, attn_precision=None, transformer_options=None, **kw):
            width = q.shape[-1] // (heads if q.ndim == 3 else 1)
            assert width in widths, "the real one logs an error, or raises"
            assert q.dtype == k.dtype == v.dtype and (not halves or q.dtype != torch.float32)
            del kw["_inside_attn_wrapper"]
            self.seen.append((width, v.shape[-1] // (heads if q.ndim == 3 else 1), kw))
            return attended(q, k, v, heads, kw.get("scale") if heeds else None)

        function.__name__, function.__module__ = name, attention.CORE
        self.function = core.wrap_attn(function)


@pytest.fixture
def core_of(monkeypatch):
    """ComfyUI started with one function for all attention: ``core_of(name)`` -> (it, torch's)."""

    def start(name):
        chosen = Stand(name)
        torchs = chosen if name == "attention_pytorch" else Stand("attention_pytorch")
        monkeypatch.setattr(attention, "optimized_attention", chosen.function)
        monkeypatch.setattr(attention, "attention_pytorch", torchs.function)
        return chosen, torchs

    return start


def blended(tensors, gamma, options=None, preferred=None):
    """The mix on the device that is not there."""
    with PretendedGPU():
        made = blend_before_softmax(
            *(to_gpu(t) for t in tensors), gamma, HEADS, fused_attention(options or {}, preferred)
        )
        return from_gpu(made)


def test_the_table_has_all_functions_of_this_core():
    names = {name for name, one in vars(core).items() if name.startswith("attention") and hasattr(one, "__wrapped__")}
    assert names <= set(KERNELS), "read what it does with a scale, and up to which width of heads it runs"


@pytest.mark.parametrize("name", ["attention_pytorch", "attention_basic", "attention_split", "attention_sub_quad"])
def test_what_the_table_says_of_a_scale(name):
    """All of these give right numbers under one; sub-quad multiplies the queries, so that it is not asked to."""
    q, k, _, _, v = case(8, torch.float32)
    found = getattr(core, name)(q, k, v, HEADS, scale=0.9)
    torch.testing.assert_close(found, attended(q, k, v, HEADS, 0.9), atol=1e-5, rtol=0)


@pytest.mark.parametrize("page", ["attention-kernels.md", "attention-kernels/zh.md", "attention-kernels/ja.md"])
def test_the_help_page_says_what_the_table_does(page):
    text = (Path(attention.__file__).parents[2] / "web" / "docs" / page).read_text(encoding="utf-8")
    rows = re.findall(r"- \*\*`(\w+)`\*\*\\\n.*\\\n *[^:：]+[:：](.*)\\\n *[^:：]+[:：](.*)", text)
    assert {name for name, *_ in rows} == set(KERNELS)
    for name, width, scales in rows:
        kernel, scales = KERNELS[name], scales.strip()
        # a range of widths stands there by its end, two widths stand there both
        widths = [] if kernel.widths is None else [max(kernel.widths)] if len(kernel.widths) > 9 else kernel.widths
        assert [int(number) for number in re.findall(r"[0-9]+", width)] == list(widths), name
        assert any(word in width for word in ("half", "半")) == kernel.halves, name
        assert scales.startswith(("no", "否", "いいえ")) != kernel.scales, name


#: (function, precision, doubled width) -> whether the function itself runs it.
SERVED = [
    *[("attention_pytorch", torch.bfloat16, width, True) for width in DOUBLED],
    *[("attention_sub_quad", torch.float16, width, True) for width in DOUBLED],
    *[("attention_split", torch.float32, width, True) for width in DOUBLED],
    *[("attention_xformers", torch.float32, width, width < 320) for width in DOUBLED],
    *[("attention_flash", torch.bfloat16, width, width < 320) for width in DOUBLED],
    *[("attention_flash", torch.float32, width, False) for width in DOUBLED],
    *[("attention_sage", torch.float16, width, width <= 128) for width in DOUBLED],
    *[("attention_sage", torch.float32, width, False) for width in DOUBLED],
    *[("attention3_sage", torch.bfloat16, width, width == 128) for width in DOUBLED],
    *[("attention_comfy_kitchen_int8", torch.bfloat16, width, width < 320) for width in DOUBLED],
    *[("attention_of_a_newer_core", torch.bfloat16, width, width < 320) for width in DOUBLED],
]


@pytest.mark.parametrize(("name", "dtype", "width", "serves"), SERVED)
def test_what_the_user_chose_runs_where_it_can(name, dtype, width, serves):
    stand = Stand(name)
    assert (serving(stand.function, width, "cuda", dtype) is not None) == serves
    assert serving(stand.function, width, "cpu", dtype) is not None, "on a CPU the core itself hands it on"


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("width", [width // 2 for width in DOUBLED])
@pytest.mark.parametrize("name", REAL)
def test_a_mix_is_right_and_silent_whatever_was_chosen(name, width, gamma, core_of, caplog):
    chosen, torchs = core_of(name)
    tensors = case(width)
    with caplog.at_level(logging.DEBUG):
        found = blended(tensors, gamma)
    assert off(found, exact(*tensors, gamma)) < NEAR and found.dtype == torch.bfloat16
    assert not caplog.records
    serves = serving(chosen.function, 2 * width, "cuda", torch.bfloat16) is not None
    stand = chosen if serves else torchs
    assert stand is chosen or not chosen.seen
    scale = {"scale": max(gamma, 1 - gamma) / math.sqrt(width)} if stand.name in HANDED else {}
    assert stand.seen == [(2 * width, 2 * width, scale)]


def test_float32_keeps_its_numbers(core_of):
    """Its factors stay in the queries: no function is handed a scale, and bits are what they were."""
    chosen, _ = core_of("attention_pytorch")
    tensors = case(64, torch.float32)
    found = blended(tensors, 0.9)
    assert "scale" not in chosen.seen[0][2]
    q, k, v = (
        torch.cat([a.unflatten(-1, (HEADS, -1)), b.unflatten(-1, (HEADS, -1))], -1).flatten(2)
        for a, b in (
            (math.sqrt(2) * 0.9 * tensors[0], math.sqrt(2) * (1 - 0.9) * tensors[2]),
            (tensors[1], tensors[3]),
            (tensors[4], torch.zeros_like(tensors[4])),
        )
    )
    assert torch.equal(found, attended(q, k, v, HEADS).unflatten(-1, (HEADS, -1))[..., :64].flatten(2))


class TestOverrides:
    """Functions of other packs, as they stand in a MODEL's options."""

    def check(self, override, width=64, gamma=0.9, preferred=None):
        tensors = case(width)
        found = blended(tensors, gamma, {"optimized_attention_override": override}, preferred)
        assert off(found, exact(*tensors, gamma)) < NEAR

    def test_one_that_ignores_keywords(self, core_of):
        core_of("attention_pytorch")
        seen = []

        def override(func, *args, **kwargs):
            seen.append(kwargs)
            return attended(*args[:4])

        self.check(override)
        assert len(seen) == 1 and "scale" not in seen[0]

    def test_one_that_takes_a_scale(self, core_of):
        core_of("attention_pytorch")
        seen = []

        def override(func, q, k, v, heads, mask=None, scale=None, **kwargs):
            seen.append(scale)
            return attended(q, k, v, heads, scale)

        self.check(override)
        assert seen == [0.9 / 8]

    def test_one_that_refuses_keywords(self, core_of):
        core_of("attention_pytorch")
        seen = []

        def override(
            func, q, k, v, heads, mask=None, attn_precision=None, transformer_options=None, _inside_attn_wrapper=True
        ):
            seen.append(func.__name__)
            return attended(q, k, v, heads)

        self.check(override)
        assert seen == ["attention_pytorch"]

    def test_one_that_is_an_object(self, core_of):
        core_of("attention_pytorch")

        class Override:
            def __call__(self, func, *args, **kwargs):
                assert "scale" not in kwargs
                return attended(*args[:4])

        self.check(Override())

    def test_one_named_as_a_function_of_the_core(self, core_of):
        """Packs bring a ``attention_sage`` of their own, which ignores what it does not know."""
        core_of("attention_pytorch")

        def attention_sage(func, q, k, v, heads, mask=None, attn_precision=None, **kwargs):
            assert "scale" not in kwargs
            return attended(q, k, v, heads)

        self.check(attention_sage)

    def test_none_is_asked_for_heads_that_no_kernel_has(self, core_of):
        _, torchs = core_of("attention_sage")

        def override(func, *args, **kwargs):
            raise RuntimeError("FlashAttention only supports head dimension at most 256")

        self.check(override, width=160)
        assert torchs.seen[0][2]["scale"] == 0.9 / math.sqrt(160)

    @pytest.mark.parametrize("name", REAL)
    @pytest.mark.parametrize("width", [32, 64, 80, 160])
    def test_what_a_user_chose_by_the_cores_node(self, name, width, core_of):
        """The core's own override hands everything on: what stands behind it is what can serve, or not."""
        _, torchs = core_of("attention_pytorch")
        behind = Stand(name)
        model = attention.attending(tiny("sd1"), behind.function)
        self.check(model.model_options["transformer_options"]["optimized_attention_override"], width)
        serves = serving(behind.function, 2 * width, "cuda", torch.bfloat16) is not None
        assert bool(behind.seen) == serves and bool(torchs.seen) != serves
        assert not serves or ("scale" in behind.seen[0][2]) == (name in HANDED)


class TestPreferred:
    """A layer's own preference, on cores that know it: an object with a function, or with none."""

    @pytest.fixture
    def newer(self, core_of, monkeypatch):
        _, torchs = core_of("attention_pytorch")

        def optimized(q, k, v, heads, preferred_attention=None, **kw):
            function = getattr(preferred_attention, "function", None) or torchs.function
            return function(q, k, v, heads, **kw)

        optimized.__name__, optimized.__module__ = "attention_pytorch", attention.CORE
        monkeypatch.setattr(attention, "optimized_attention", optimized)
        return torchs

    @pytest.mark.parametrize("width", [64, 160])
    def test_a_function(self, width, newer):
        preferred = Stand("attention_comfy_kitchen_int8")
        tensors = case(width)
        found = blended(tensors, 0.9, {}, SimpleNamespace(function=preferred.function))
        assert off(found, exact(*tensors, 0.9)) < NEAR
        assert bool(preferred.seen) == (width == 64) != bool(newer.seen)

    def test_none(self, newer):
        tensors = case(64)
        assert off(blended(tensors, 0.9, {}, SimpleNamespace(function=None)), exact(*tensors, 0.9)) < NEAR
        assert "scale" in newer.seen[0][2]


class TestNarrowValues:
    """Values are as wide as they are where torch's own attention takes them so, and as wide as the keys elsewhere."""

    @pytest.mark.parametrize("name", REAL)
    def test_only_torchs_own_gets_them(self, name, core_of, monkeypatch):
        chosen, torchs = core_of(name)
        monkeypatch.setattr(attention, "takes_narrow", lambda *asked: True)
        for width in (40, 160):
            tensors = case(width)
            assert off(blended(tensors, 0.5), exact(*tensors, 0.5)) < NEAR
        assert all(values == width // 2 for width, values, _ in torchs.seen)
        assert chosen is torchs or all(values == width for width, values, _ in chosen.seen)
        assert chosen.seen or torchs.seen

    def test_the_cores_own_function_takes_them(self, monkeypatch):
        """The real one, in the layout that does not take the width of values from the keys."""
        monkeypatch.setattr(attention, "takes_narrow", lambda *asked: True)
        for dtype, near in ((torch.float32, 1e-5), (torch.bfloat16, NEAR)):
            tensors = case(40, dtype)
            found = blend_before_softmax(*tensors, 0.9, HEADS, fused_attention({}))
            assert found.shape == tensors[4].shape and off(found, exact(*tensors, 0.9)) < near


def test_a_kernel_put_in_place_of_torchs(monkeypatch):
    """``F.scaled_dot_product_attention = sageattn`` ignores a scale without a word."""
    torchs = F.scaled_dot_product_attention

    def ignoring(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, **ignored):
        assert not ignored
        return torchs(q, k, v)

    tensors = case(64)
    wanted = exact(*tensors, 0.9)
    monkeypatch.setattr(F, "scaled_dot_product_attention", ignoring)
    assert off(blend_before_softmax(*tensors, 0.9, HEADS, fused_attention({})), wanted) < NEAR
