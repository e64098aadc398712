"""Maps between distributions, against formulas in float64."""

import numpy as np
import pytest
import torch

from comfyui_exemplar.color.matching import BINS, Grid, Moments, histograms, sliced, spread, transport, turns

NOISE = 1e-9


def cloud(seed, count=4000, scale=1.0):
    """(n, 3) float64 in 0..1, skewed, its channels related."""
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(3, 3)) * 0.08 * scale
    return (generator.gamma(2.0, 1.0, size=(count, 3)) @ mixing.T + 0.5).clip(0, 1)


def moments(points):
    return Moments(points.mean(0), np.cov(points.T, bias=True), len(points))


def applied(stage, points):
    return stage(torch.from_numpy(points.T.copy()).float()).double().numpy().T


def square_root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def test_mean_and_spread():
    source, reference = cloud(0), cloud(1)
    made = applied(spread(moments(source), moments(reference), NOISE), source)
    naive = (source - source.mean(0)) / source.std(0) * reference.std(0) + reference.mean(0)
    assert np.abs(made - naive).max() < 1e-5


def test_transport_is_the_formula_of_gaussians():
    source, reference = cloud(0), cloud(1)
    stage = transport(moments(source), moments(reference), NOISE)
    s, r = np.cov(source.T, bias=True), np.cov(reference.T, bias=True)
    inverse = np.linalg.inv(square_root(s))
    naive = inverse @ square_root(square_root(s) @ r @ square_root(s)) @ inverse
    assert np.abs(np.array(stage.matrix) - naive).max() < 1e-6
    made = applied(stage, source)
    assert np.abs(np.cov(made.T, bias=True) - r).max() < 1e-6 and np.abs(made.mean(0) - reference.mean(0)).max() < 1e-6


def test_what_has_no_variance_is_shifted_only():
    gray = np.repeat(np.linspace(0.2, 0.8, 500)[:, None], 3, 1)
    reference = cloud(1)
    for fit in (spread, transport):
        constant = moments(np.full((9, 3), 0.98))
        stage = fit(constant, moments(reference), 5e-4)
        assert np.abs(np.array(stage.matrix) - np.eye(3)).max() < 1e-6
        assert np.abs(applied(stage, constant.mean[None])[0] - reference.mean(0)).max() < 1e-6
    across = np.array([[1, -1, 0], [1, 1, -2]]) / np.sqrt([[2], [6]])
    matrix = np.array(transport(moments(gray), moments(reference), 5e-4).matrix)
    assert np.abs(across @ matrix @ across.T - np.eye(2)).max() < 0.01, "of rounding errors"


def test_a_fade_to_a_constant_meets_no_threshold():
    """The gain goes smoothly to 1: between neighbors of a row of ever smaller deviations it never jumps."""
    reference, gains = moments(cloud(1)), []
    for deviation in np.geomspace(0.1, 1e-9, 320):
        source = Moments(np.full(3, 0.9), np.eye(3) * deviation**2, 1.0)
        gains.append((spread(source, reference, 5e-4).matrix[0][0], transport(source, reference, 5e-4).matrix[0][0]))
    steps = np.abs(np.diff(np.log(gains), axis=0))
    assert steps.max() < 0.07 and np.abs(np.array(gains[-1]) - 1).max() < 1e-3


def grid():
    return Grid.over([(np.zeros(3), np.ones(3))])


def counted(points, weights=None):
    found = grid().counted(torch.from_numpy(points.T.copy()).float(), weights)
    return found.double().numpy().reshape(3, -1)


def naive_histogram(source, reference):
    """The monotone map by ranks, of values without ties."""
    made = np.empty_like(source)
    for channel in range(3):
        ranks = (source[:, channel].argsort().argsort() + 0.5) / len(source)
        ordered = np.sort(reference[:, channel])
        made[:, channel] = np.interp(ranks, (np.arange(len(ordered)) + 0.5) / len(ordered), ordered)
    return made


def test_histograms_are_the_monotone_map_without_a_step():
    generator = np.random.default_rng(3)
    source, reference = generator.beta(2, 5, (200_000, 3)), generator.beta(4, 2, (150_000, 3))
    made = applied(histograms(grid(), counted(source), counted(reference), NOISE), source)
    difference = np.abs(made - naive_histogram(source, reference))
    assert difference.mean() < 1e-4 and np.quantile(difference, 0.999) < 1 / 1020
    assert len(np.unique(made[:, 0])) > 50_000, "no 8-bit step"


def test_histograms_of_8_bit_values_go_by_middle_ranks():
    generator = np.random.default_rng(4)
    source, reference = (np.round(generator.beta(*ab, (5000, 3)) * 255) / 255 for ab in ((2, 5), (4, 2)))
    made = applied(histograms(grid(), counted(source), counted(reference), NOISE), source)
    for channel in range(3):
        _, inverse, counts = np.unique(source[:, channel], return_inverse=True, return_counts=True)
        there, counts_there = np.unique(reference[:, channel], return_counts=True)
        middle, other = (np.cumsum(c) - c / 2 for c in (counts, counts_there))
        naive = np.interp(middle / len(source), other / len(reference), there)[inverse]
        assert np.abs(made[:, channel] - naive).max() < 1e-5


def test_histograms_of_the_same_are_the_identity_within_and_beyond():
    source = cloud(0) * 0.5 + 0.2
    stage = histograms(grid(), counted(source), counted(source), NOISE)
    assert np.abs(applied(stage, source) - source).max() < 1e-6
    beyond = np.array([[-0.2, 0.0, 0.05], [0.95, 1.0, 1.3]])
    assert np.abs(applied(stage, beyond) - beyond).max() < 1e-6


def test_weights_count_as_repetitions():
    source = cloud(0, 50)
    weights = torch.arange(50) % 4
    repeated = np.repeat(source, weights.numpy(), 0)
    assert np.abs(counted(source, weights.float()) - counted(repeated)).max() < 1e-4
    assert counted(source).sum() == 150 and counted(source).shape == (3, BINS)


def distance(a, b, directions=64):
    """Mean distance of quantiles along directions other than those that were drawn."""
    generator, found = np.random.default_rng(99), 0.0
    levels = np.linspace(0.005, 0.995, 100)
    for _ in range(directions):
        axis = generator.normal(size=a.shape[1])
        axis /= np.linalg.norm(axis)
        found += np.abs(np.quantile(a @ axis, levels) - np.quantile(b @ axis, levels)).mean()
    return found / directions


@pytest.mark.parametrize("channels", [2, 3])
def test_sliced_transport_brings_the_whole_distribution(channels):
    """Two blobs against one bent one: what mean, covariance and channels' histograms leave apart."""
    generator = np.random.default_rng(5)
    source = generator.normal(0.5, 0.1, (6000, channels))
    reference = generator.normal(0.5, 0.04, (6000, channels)) + 0.2 * generator.choice([-1, 1], 6000)[:, None]
    parts = [(torch.from_numpy(each.T.copy()).float(), torch.ones(len(each))) for each in (source, reference)]
    stages, made = sliced(*parts, NOISE), source
    for stage in stages:
        made = applied(stage, made)
    linear = applied(transport(moments(source), moments(reference), NOISE), source)
    assert distance(made, reference) < 0.25 * distance(linear, reference)
    again = sliced(*parts, NOISE)
    assert all(torch.equal(one.tables, other.tables) for one, other in zip(stages, again, strict=True))


def test_turns_are_orthonormal_and_fixed():
    for channels in (2, 3):
        found = turns(channels)
        assert np.array_equal(found[0], np.eye(channels))
        assert all(np.abs(turn @ turn.T - np.eye(channels)).max() < 1e-12 for turn in found)
    assert np.abs(turns(3)[1] - turns(3)[2]).max() > 0.1
