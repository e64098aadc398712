"""Several feature spaces as one: scaled and put side by side they give the added logits."""

import dataclasses

import pytest
import torch

from comfyui_exemplar.memory.features import Features, joined_keys, joined_queries, on_grid

from . import naive


def test_one_dot_product_is_the_sum_of_all_spaces_logits():
    asking, answering = naive.features(seed=1), naive.features(seed=2)
    expected = naive.logits(asking, answering, 2.5, 0.8)
    found = joined_queries(asking, 2.5, 0.8)[0] @ joined_keys(answering)[0].T
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_second_layer_of_a_kind_that_says_the_same_changes_nothing():
    one = naive.features(seed=3)
    fine = dataclasses.replace(one, **{n: getattr(one, n)[:2] for n in ("spaces", "queries", "keys", "grids")})
    twice = dataclasses.replace(
        one, **{n: (*getattr(one, n)[:2], getattr(one, n)[1]) for n in ("spaces", "queries", "keys", "grids")}
    )
    expected = joined_queries(fine)[0] @ joined_keys(fine)[0].T
    torch.testing.assert_close(joined_queries(twice)[0] @ joined_keys(twice)[0].T, expected, rtol=1e-5, atol=1e-5)


def test_without_context_a_place_of_the_finest_grid_is_itself():
    tokens = torch.randn(1, 48, 4)
    assert torch.equal(on_grid(tokens, (6, 8), (6, 8)), tokens)


def test_context_is_the_share_of_the_mean_around():
    plane = torch.arange(12.0).view(1, 12, 1)
    found = on_grid(plane, (3, 4), (3, 4), 0.25)[0, :, 0].view(3, 4)
    rows = torch.arange(12.0).view(3, 4)
    assert found[1, 1] == pytest.approx(0.75 * rows[1, 1] + 0.25 * rows[:, :3].mean())
    assert found[0, 0] == pytest.approx(0.25 * rows[:2, :2].mean())  # at an edge those that there are


def test_pictures_are_taken():
    both = naive.features(2)
    second = both.take(slice(1, 2))
    assert second.pictures == 1 and second.grid == (6, 8)
    assert torch.equal(joined_keys(second), joined_keys(both)[1:])


def test_wrong_shapes_are_refused():
    one = naive.features()
    with pytest.raises(ValueError, match=r"queries of output\.3 of shape \(1, 12, 8\), expected \(1, 48, 8\)"):
        dataclasses.replace(one, grids=((6, 8),) * 3)
    with pytest.raises(ValueError, match="no feature space"):
        Features("toy", (), (), (), ())
