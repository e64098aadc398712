"""Reading published weights: sizes from shapes, nothing missing, nothing too many, norms folded."""

import pytest
import torch

from comfyui_exemplar.networks.ddcolor.weights import (
    _batch_norm,
    _spectral,
    check_weights,
    fold,
    published_shapes,
    read_sizes,
)

from ..fixtures.ddcolor import SIZES, small_weights

QUERIES = "decoder.color_decoder.query_feat.weight"


@pytest.fixture
def weights():
    return small_weights()


def test_sizes_come_from_the_shapes(weights):
    assert read_sizes(weights) == SIZES
    assert {name: tuple(t.shape) for name, t in weights.items()} == published_shapes(SIZES)
    check_weights(weights, SIZES)


def test_other_models_are_named():
    with pytest.raises(ValueError, match=r"not DDColor's weights: found tensors named like \['conv_first.weight'\]"):
        read_sizes({"conv_first.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="found no tensors"):
        read_sizes({})


@pytest.mark.parametrize("name", [QUERIES, "decoder.layers.1.conv.0.weight_orig", "encoder.arch.norm2.weight"])
def test_what_tells_a_size_is_missing(weights, name):
    del weights[name]
    with pytest.raises(ValueError, match=f"incomplete: `{name}` is missing"):
        read_sizes(weights)


@pytest.mark.parametrize(
    "change, match",
    [
        (lambda w: w.pop("decoder.layers.0.bn.bias"), r"missing \[decoder.layers.0.bn.bias\], unexpected \[\]"),
        (lambda w: w.pop("encoder.arch.norm.weight"), r"missing \[encoder.arch.norm.weight\]"),
        (lambda w: w.update(surprise=torch.zeros(1)), r"missing \[\], unexpected \[surprise\]"),
        (lambda w: w.update({"refine_net.0.0.bias": torch.zeros(3)}), r"refine_net.0.0.bias \(3,\) instead of \(2,\)"),
    ],
)
def test_misfits_are_named(weights, change, match):
    change(weights)
    with pytest.raises(ValueError, match=match):
        check_weights(weights, read_sizes(weights))


def test_layers_that_do_not_go_round(weights):
    """Seven layers can't look at three scales in turn."""
    again = {name.replace(".5.", ".6."): t for name, t in weights.items() if "transformer_" in name and ".5." in name}
    weights |= again
    with pytest.raises(ValueError, match="7 color decoder layers"):
        check_weights(weights, read_sizes(weights))


def test_spectral_norm_divides_by_what_the_stored_vectors_give():
    """Not by the largest singular value: u and v are of an iteration that was stopped."""
    matrix = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
    given = {
        "x.weight_orig": matrix[:, :, None, None],
        "x.weight_u": torch.tensor([0.0, 1.0, 0.0]),
        "x.weight_v": torch.tensor([0.0, 1.0, 0.0]),
    }
    torch.testing.assert_close(_spectral(given, "x"), given["x.weight_orig"] / 2)


def test_batch_norm_comes_down_to_scale_and_shift(weights):
    x = torch.randn(4, SIZES.skips[0], 3, 3)
    name = "decoder.layers.0.bn"
    parts = [weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    scale, shift = _batch_norm(weights, name)
    expected = torch.nn.functional.batch_norm(x, *parts)
    torch.testing.assert_close(x * scale[:, None, None] + shift[:, None, None], expected)


def test_half_precision_files_are_folded_in_full(weights):
    encoder, rest = fold({name: t.half() for name, t in weights.items()}, SIZES)
    assert {t.dtype for t in (*encoder.values(), *rest.values())} == {torch.float32}


def test_folding_leaves_the_given_weights_alone(weights):
    before = {name: t.clone() for name, t in weights.items()}
    fold(weights, SIZES)
    assert all(torch.equal(t, weights[name]) for name, t in before.items())
