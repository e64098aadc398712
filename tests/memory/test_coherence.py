"""What belongs together takes one color and one source, beside whole maps."""

import math
from dataclasses import replace

import pytest
import torch

from comfyui_exemplar.memory import coherence
from comfyui_exemplar.memory.coherence import agreed, agreement, coherent
from comfyui_exemplar.memory.features import joined_keys, joined_queries
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
def chroma():
    return naive.chroma(1, H, W)[0].flatten(0, 1)


@pytest.fixture
def lightness():
    return 100 * torch.rand(H * W, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def memory():
    return from_references(naive.features(3, seed=5), naive.chroma(3), precision="float32")


@pytest.mark.parametrize("locality", [0.0, 0.4, 1.0])
def test_a_joint_bilateral_mean(features, queries, chroma, lightness, locality):
    found = coherent(chroma, queries, features, lightness, 0.7, locality)
    rows, columns = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    place = torch.stack([rows.flatten(), columns.flatten()], -1) / (0.2 * max(H, W))
    apart = torch.cdist(place, place).square() + (lightness[:, None] - lightness).square() / 36
    logits = (1 - 0.2 * locality) * queries @ joined_keys(features)[0].T - locality * apart / 2
    expected = torch.lerp(chroma, logits.softmax(-1) @ chroma, 0.7)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_no_coherence_is_the_chroma_itself(features, queries, chroma, lightness):
    assert coherent(chroma, queries, features, lightness, 0.0, 1.0) is chroma


def test_color_stops_at_an_edge_of_lightness(features, queries):
    """Left dark and red, right light and green, and a network that finds everything alike."""
    left = (torch.arange(H * W) % W) < W // 2
    chroma = torch.where(left[:, None], torch.tensor([60.0, 0.0]), torch.tensor([-60.0, 0.0]))
    lightness = torch.where(left, 20.0, 80.0)
    mixed, apart = (coherent(chroma, queries * 0, features, lightness, 1.0, locality) for locality in (0.0, 1.0))
    assert float(mixed.abs().max()) < 1
    torch.testing.assert_close(apart, chroma, rtol=0, atol=0.1)


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
    reach = round(coherence.WINDOW * 10)
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
