"""Asking a memory, beside whole attention maps: every number that a lookup gives."""

import dataclasses
import math

import pytest
import torch

from comfyui_exemplar.memory import lookup
from comfyui_exemplar.memory.entries import empty, merged
from comfyui_exemplar.memory.features import joined_queries
from comfyui_exemplar.memory.lookup import look_up, shortlisted
from comfyui_exemplar.memory.palette import Palette
from comfyui_exemplar.memory.writing import from_references

from . import naive


@pytest.fixture
def memory():
    references = from_references(
        naive.features(3, seed=5), naive.chroma(3), weights=(1.0, 2.5, 0.3), precision="float32"
    )
    return references.take(torch.arange(len(references) - 7))  # no round number of entries


@pytest.fixture
def queries():
    return joined_queries(naive.features(seed=6), 1.3, 0.7)[0]


@pytest.fixture(params=[(1024, 2048), (7, 16), (48, 1), (1, 1000)])
def tiles(request, monkeypatch):
    monkeypatch.setattr(lookup, "QUERIES", request.param[0])
    monkeypatch.setattr(lookup, "ENTRIES", request.param[1])


def expected(queries, memory, p=None):
    p = naive.attention(queries, memory) if p is None else p
    mean = p @ memory.chroma
    off = memory.chroma[None] - mean[:, None]
    spread = (p * off.square().sum(-1)).sum(-1).sqrt()
    entropy = -(p * p.clamp_min(1e-30).log()).sum(-1)
    shares = torch.stack([(p * (memory.source == s)).sum(-1) for s in range(len(memory.sources))], -1)
    return mean, spread, entropy, shares


def test_all_entries(memory, queries, tiles):
    found = look_up(queries, memory)
    mean, spread, entropy, shares = expected(queries, memory)
    torch.testing.assert_close(found.chroma, mean, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found.spread, spread, rtol=1e-4, atol=1e-2)  # a difference of squares of 50
    torch.testing.assert_close(found.entropy, entropy / math.log(len(memory)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.shares, shares, rtol=1e-5, atol=1e-6)
    logits = queries @ memory.keys.floats().T + memory.weight.log()
    assert torch.equal(found.best, logits.argmax(-1)) and torch.equal(found.source, shares.argmax(-1))
    torch.testing.assert_close(found.match, logits.amax(-1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("top", [1, 5, 40])
def test_the_best_entries_only(memory, queries, tiles, top):
    found = look_up(queries, memory, top)
    logits = queries @ memory.keys.floats().T + memory.weight.log()
    least = logits.topk(top, -1).values[:, -1:]
    p = logits.masked_fill(logits < least, -math.inf).softmax(-1)
    mean, spread, entropy, shares = expected(queries, memory, p)
    torch.testing.assert_close(found.chroma, mean, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found.spread, spread, rtol=1e-4, atol=3e-2)
    torch.testing.assert_close(found.entropy, entropy / math.log(max(top, 2)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.shares, shares, rtol=1e-5, atol=1e-6)
    assert torch.equal(found.best, logits.argmax(-1))


def test_top_of_all_or_more_is_all(memory, queries):
    for top in (len(memory), len(memory) + 5):
        assert torch.equal(look_up(queries, memory, top).chroma, look_up(queries, memory).chroma)


def test_huge_logits_do_not_overflow(memory, queries):
    found = look_up(queries * 1e4, memory)
    assert all(getattr(found, f.name).isfinite().all() for f in dataclasses.fields(found))
    torch.testing.assert_close(found.chroma, memory.chroma[found.best], rtol=1e-3, atol=1e-2)
    assert found.entropy.max() < 1e-3


def test_even_attention_has_entropy_one_and_the_mean_color(memory, queries):
    even = dataclasses.replace(memory, weight=torch.ones(len(memory)))
    found = look_up(queries * 0, even)
    torch.testing.assert_close(found.entropy, torch.ones(len(queries)))
    torch.testing.assert_close(found.chroma, memory.chroma.mean(0).expand(len(queries), -1), rtol=1e-4, atol=1e-3)


def test_a_weight_counts_as_that_many_copies(memory, queries):
    once = memory.take(torch.arange(20)).weighted(1.0)
    twice = dataclasses.replace(once, weight=once.weight.index_fill(0, torch.tensor([3]), float(once.weight[3]) * 2))
    copied = merged([once, once.take(torch.tensor([3]))])
    torch.testing.assert_close(look_up(queries, twice).chroma, look_up(queries, copied).chroma, rtol=1e-5, atol=1e-4)


def test_never_a_map_of_all_queries_by_all_entries(memory, queries, monkeypatch):
    monkeypatch.setattr(lookup, "QUERIES", 8)
    monkeypatch.setattr(lookup, "ENTRIES", 16)
    sizes = []
    tiles = lookup._tiles

    def watched(*arguments):
        for first, logits in tiles(*arguments):
            sizes.append(tuple(logits.shape))
            yield first, logits

    monkeypatch.setattr(lookup, "_tiles", watched)
    look_up(queries, memory)
    assert max(a * b for a, b in sizes) == 8 * 16 and sum(a * b for a, b in sizes) == len(queries) * len(memory)


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_fewer_bits_hardly_change_colors(memory, queries, precision):
    fewer = memory.in_precision(precision)
    assert fewer.nbytes < memory.nbytes
    off = (look_up(queries, fewer).chroma - look_up(queries, memory).chroma).norm(dim=-1)
    assert off.mean() < (0.05 if precision == "float16" else 0.5), off.mean()


def test_a_shortlist_has_the_best_of_each_block(memory, queries, tiles):
    for most in (12, 40):
        some = shortlisted(queries, (6, 8), memory, most)
        blocks = torch.nn.functional.avg_pool2d(queries.T.view(1, -1, 6, 8), 4, ceil_mode=True)[0].flatten(1).T
        logits = blocks @ memory.keys.floats().T + memory.weight.log()
        rows = logits.topk(most // 4, -1).indices.unique()
        assert len(blocks) == 4 and torch.equal(some.keys.data, memory.keys.data[rows])
        assert torch.equal(some.chroma, memory.chroma[rows]) and some.sources == memory.sources


def test_a_shortlist_of_all_is_the_memory(memory, queries):
    assert shortlisted(queries, (6, 8), memory, 0) is memory
    assert shortlisted(queries, (6, 8), memory, len(memory)) is memory


def test_what_cannot_be_asked_is_refused(memory, queries):
    with pytest.raises(ValueError, match=r"found no entries.*merge it with the memory of a reference"):
        look_up(queries, empty(palettes=(Palette(torch.tensor([[40.0, 0.0]])),)))
    with pytest.raises(ValueError, match="found 3 channels, expected 16"):
        look_up(queries[:, :3], memory)
