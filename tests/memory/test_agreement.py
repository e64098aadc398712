"""Places of a region take their colors from one source, beside whole maps."""

import math
from dataclasses import replace

import pytest
import torch

from comfyui_exemplar.memory.agreement import WINDOW, agreed, agreement
from comfyui_exemplar.memory.features import joined_queries
from comfyui_exemplar.memory.lookup import look_up
from comfyui_exemplar.memory.writing import from_references

from . import naive

H, W = naive.GRIDS[-1]


@pytest.fixture
def features():
    return naive.features(seed=6)


@pytest.fixture
def queries(features):
    return joined_queries(features)[0]


@pytest.fixture
def memory():
    return from_references(naive.features(3, seed=5), naive.chroma(3), precision="float32")


def test_places_of_a_region_agree_on_a_source():
    """One source is a little ahead nearly everywhere in the left half, the other in the right."""
    left = (torch.arange(16 * 16) % 16) < 8
    shares = torch.where(left[:, None], torch.tensor([0.6, 0.4]), torch.tensor([0.4, 0.6]))
    shares[3 * 16 + 1] = torch.tensor([0.3, 0.7])  # a stray
    prior = agreement(shares, (16, 16), 3.0, torch.ones(2))
    decided = (shares.log() + prior).softmax(-1)
    assert float(decided[3 * 16 + 1, 0]) > 0.5
    assert float(decided[left & (torch.arange(256) % 16 < 4), 0].min()) > 0.5
    assert float(decided[~left & (torch.arange(256) % 16 > 11), 1].min()) > 0.8
    assert torch.equal(agreement(shares, (16, 16), 0.0, torch.ones(2)), torch.zeros_like(prior))


def test_agreement_is_the_mean_log_evidence_of_the_places_around():
    shares = torch.rand(6 * 10, 3, generator=torch.Generator().manual_seed(1))
    shares = shares / shares.sum(-1, keepdim=True)
    reach = round(WINDOW * 10)
    mass = torch.tensor([10.0, 1.0, 0.3])
    prior = agreement(shares, (6, 10), 2.0, mass).view(6, 10, 3)
    logs = (shares / mass).log().view(6, 10, 3)
    y, x = 3, 4
    around = [
        logs[min(max(y + dy, 0), 5), min(max(x + dx, 0), 9)]
        for dy in range(-reach, reach + 1)
        for dx in range(-reach, reach + 1)
    ]
    torch.testing.assert_close(prior[y, x], 2 * torch.stack(around).mean(0))


def test_a_source_without_any_share_stays_finite():
    prior = agreement(torch.tensor([[1.0, 0.0]]).expand(4, 2), (2, 2), 20.0, torch.ones(2))
    assert bool(prior.isfinite().all()) and float(prior[0, 0]) == 0


@pytest.mark.parametrize("top", [0, 5])
def test_a_prior_is_added_to_the_logits_of_a_source(memory, queries, top):
    prior = torch.randn(len(queries), 3, generator=torch.Generator().manual_seed(2))
    found = look_up(queries, memory, top, prior=prior)
    logits = queries @ memory.keys.floats().T + prior[:, memory.source]
    if top:
        logits = logits.masked_fill(logits < logits.topk(top, -1).values[:, -1:], -math.inf)
    torch.testing.assert_close(found.chroma, logits.softmax(-1) @ memory.chroma, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_what_a_source_counts_counts_once(memory, queries, factor):
    """Heavier entries of one source change what is found as they do without agreement, not to a power of it."""
    weight = torch.where(memory.source == 1, factor, 1.0)
    plain, heavy = (agreed(queries, (H, W), each, 5.0) for each in (memory, replace(memory, weight=weight)))
    odds = [each.shares[:, 1] / each.shares[:, 0] for each in (heavy, plain)]
    torch.testing.assert_close(odds[0] / odds[1], torch.full((H * W,), factor), rtol=1e-2, atol=0)


@pytest.mark.parametrize("strength", [0.0, 5.0])
def test_a_source_counts_by_its_prior_as_by_its_weight(memory, queries, strength):
    prior = torch.tensor([0.0, math.log(0.3), math.log(2.0)])
    weight = torch.tensor([1.0, 0.3, 2.0])[memory.source]
    expected = agreed(queries, (H, W), replace(memory, weight=weight), strength)
    found = agreed(queries, (H, W), memory, strength, prior=prior)
    torch.testing.assert_close(found.chroma, expected.chroma, rtol=1e-4, atol=1e-3)


def test_fewer_places_of_two_regions_agree_on_the_same(memory, queries):
    """Two regions of one look each."""
    left = (torch.arange(12 * 12) % 12) < 6
    both = torch.where(left[:, None], queries[0], queries[1])
    whole, fewer = (agreed(both, (12, 12), memory, 5.0, step=step).shares for step in (1, 3))
    inside = (torch.arange(12 * 12) % 12 < 3) | (torch.arange(12 * 12) % 12 > 8)
    torch.testing.assert_close(fewer[inside].argmax(-1), whole[inside].argmax(-1))
    assert not torch.equal(fewer, whole)


def test_what_is_agreed_on_does_not_make_the_best_entry_more_alike(memory, queries):
    """Which source a region speaks for decides between entries; how alike the best one is, is its own."""
    found = agreed(queries, (H, W), memory, 5.0)
    logits = queries @ memory.keys.floats().T + memory.weight.log()
    torch.testing.assert_close(found.match, logits.gather(1, found.best[:, None])[:, 0], rtol=1e-4, atol=1e-3)
