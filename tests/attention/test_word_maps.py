"""Local blend: masks from the places that words look at."""

import pytest
import torch

from comfyui_exemplar.attention.layers import Layer, LayerInfo
from comfyui_exemplar.attention.word_maps import BlendWords, WordMaps, blend, blend_layers


def maps_at(places, columns=3, column=1, grid=(4, 4), heads=2):
    """(1, heads, N, columns): a word's attention rests on some places."""
    made = torch.full((1, heads, grid[0] * grid[1], columns), 0.01)
    for row, at in places:
        made[:, :, row * grid[1] + at, column] = 1.0
    return made


def test_mask_covers_both_prompts_words():
    words = WordMaps(BlendWords((1,), (1,)), {Layer("input", 1)})
    assert words.mask((8, 8)) is None
    words.add((4, 4), [0], maps_at([(0, 0)]), maps_at([(3, 3)]))
    mask = words.mask((8, 8))
    assert mask.shape == (1, 1, 8, 8)
    # a place and its neighbors, enlarged
    assert bool(mask[0, 0, :4, :4].all()) and bool(mask[0, 0, 4:, 4:].all())
    assert float(mask[0, 0, :4, 4:].sum() + mask[0, 0, 4:, :4].sum()) == 0


def test_sums_over_evaluations_and_pictures():
    run, words = WordMaps(BlendWords((), (1,)), ()), BlendWords((), (1,))
    for _ in range(2):
        one = WordMaps(words, ())
        both = torch.cat([maps_at([(0, 0)]), maps_at([(3, 3)])])
        one.add((4, 4), [0, 1], both, both)
        run.add_all(one)
    mask = run.mask((4, 4))
    assert mask.shape == (2, 1, 4, 4)
    assert mask[0, 0, 0, 0] == 1 == mask[1, 0, 3, 3] and mask[0, 0, 3, 3] == 0 == mask[1, 0, 0, 0]
    run.clear()
    assert run.mask((4, 4)) is None


def test_blend():
    target, source = torch.ones(2, 4, 4, 4), torch.zeros(2, 4, 4, 4)
    assert blend(target, source, None) is target
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1
    assert blend(target, source, mask)[:, :, :, :2].min() == 1 and blend(target, source, mask)[:, :, :, 2:].max() == 0


def test_layers_at_a_quarter_of_the_latent():
    infos = [
        LayerInfo(Layer(block, i), 8, 1, scale)
        for block, i, scale in (("input", 1, 1), ("input", 4, 4), ("middle", 0, 4), ("output", 2, 4), ("output", 8, 1))
    ]
    assert blend_layers(infos) == {Layer("input", 4), Layer("output", 2)}
    assert blend_layers(i for i in infos if i.downscale == 1) == {Layer("input", 1), Layer("output", 8)}


def test_needs_words():
    with pytest.raises(ValueError, match="at least one word"):
        BlendWords((), ())
    with pytest.raises(ValueError, match="threshold is 2"):
        BlendWords((1,), (), threshold=2)
