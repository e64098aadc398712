"""Several references as one key axis: concatenated keys, masks that leave tokens out, weights as + log w."""

import dataclasses

import pytest
import torch

from comfyui_exemplar.attention.correspondence import confidence
from comfyui_exemplar.attention.dual import DualAttentionColor
from comfyui_exemplar.attention.dual_banks import DualBanks
from comfyui_exemplar.attention.union import united

from . import naive
from .dual_edit import FIXED, FULL, HEADS, LAYERS, TOKENS, banks, call, check, edited, make

AFTER = dataclasses.replace(FULL, mix="after softmax")


def bank(references, grid, seed):
    return naive.bank(references, grid[0] * grid[1], (1.0,), LAYERS, "qkv", grid, seed=seed)


def parts(*grids):
    """(color, gray) of references of some sizes, (how many, grid) each."""
    return [(bank(n, grid, 400 + 50 * i), bank(n, grid, 700 + 50 * i)) for i, (n, grid) in enumerate(grids)]


def joint(settings, pairs, *, inputs=1, precomputed=True, **more):
    """The edit over references that serve every input together, and what it read."""
    union = united(pairs, **more)
    source = naive.bank(inputs, TOKENS, (1.0,), LAYERS, "qkv", (2, 3), seed=100)
    edit = DualAttentionColor(settings, LAYERS, DualBanks(source, union.color, union.gray, union.bias))
    if precomputed:
        edit.precompute(HEADS)
    return edit, source


def spelled_out(settings, source, asked, row, color, gray, bias):
    """The union's formula for one row, in float64, over tokens (1, M, C) that were put together by hand."""
    gamma, beta = settings.weights(LAYERS[asked.layer])
    q = source.get(1.0, asked.layer, "q")[asked.pictures[row]][None]
    first = naive.logits(q, gray["k"]) + bias.double()
    second = naive.logits(asked.q[row : row + 1], color["k"]) + bias.double()
    if settings.mix == "before softmax":
        weights = (gamma * first + (1 - gamma) * second).softmax(-1)
    else:
        weights = gamma * first.softmax(-1) + (1 - gamma) * second.softmax(-1)
    k = source.get(1.0, asked.layer, "k")[asked.pictures[row]][None]
    own = naive.attention(q, k, asked.v[row : row + 1])
    return ((1 - beta) * naive.apply(weights, color["v"]) + beta * own)[0]


def together(pairs, layer, at, letter, chosen=None):
    rows = [row for pair in pairs for row in pair[at].get(1.0, layer, letter)]
    some = rows if chosen is None else [row[tokens] for row, tokens in zip(rows, chosen, strict=True)]
    return torch.cat(some)[None]


class TestKeys:
    @pytest.mark.parametrize("settings", [FULL, AFTER, FIXED])
    @pytest.mark.parametrize("layer", list(LAYERS))
    def test_references_of_any_number_and_size_with_masks_and_weights(self, settings, layer):
        pairs = parts((2, (2, 4)), (1, (3, 2)))
        masks = [torch.zeros(1, 2, 4), None, torch.zeros(1, 3, 2)]
        masks[0][0, 0, 1] = masks[0][0, 1, 2:] = masks[2][0, 1] = 1
        chosen, weights = [[1, 6, 7], list(range(8)), [2, 3]], (1.0, 0.25, 3.0)
        edit, source = joint(settings, pairs, masks=masks, weights=weights, inputs=2)
        asked = call(layer, branches=(1, 0), batch=2)
        found = edited(edit, asked)
        bias = torch.cat([torch.full((len(tokens),), w).log() for tokens, w in zip(chosen, weights, strict=True)])
        color = {letter: together(pairs, layer, 0, letter, chosen) for letter in "kv"}
        gray = {"k": together(pairs, layer, 1, "k", chosen)}
        for row in (2, 3):
            check(found[row], spelled_out(settings, source, asked, row, color, gray, bias))
        assert torch.equal(found[:2], asked.plain()[:2])

    @pytest.mark.parametrize("settings", [FULL, AFTER, FIXED])
    def test_one_reference_is_what_it_is_by_itself_bit_for_bit(self, settings):
        three, asked = banks(), call()
        edit, _ = joint(settings, [three[1:]], weights=(2.0,))
        assert torch.equal(edited(edit, asked), edited(make(settings, three, precomputed=True), asked))

    def test_one_masked_reference_too(self):
        mask = torch.zeros(1, 2, 4)
        mask[0, 0, 1] = mask[0, 1, 2:] = 1
        three, asked = banks(), call()
        edit, _ = joint(FULL, [three[1:]], masks=[mask])
        assert torch.equal(edited(edit, asked), edited(make(FULL, three, reference_mask=mask), asked))

    @pytest.mark.parametrize("weights", [(), (0.2, 0.8)])
    def test_the_same_reference_twice_is_the_same_as_once(self, weights):
        three, asked = banks(), call()
        edit, _ = joint(FULL, [three[1:], three[1:]], weights=weights)
        torch.testing.assert_close(edited(edit, asked), edited(make(FULL, three), asked), atol=1e-6, rtol=0)

    def test_a_mask_of_nothing_leaves_its_reference_out(self):
        pairs, asked = parts((2, (2, 4))), call()
        masks = [torch.zeros(1, 2, 4), torch.ones(1, 2, 4)]
        edit, _ = joint(FULL, pairs, masks=masks)
        alone, _ = joint(FULL, [tuple(bank.take([1]) for bank in pairs[0])])
        assert torch.equal(edited(edit, asked), edited(alone, asked))

    def test_a_weight_near_nothing_leaves_the_other_alone(self):
        pairs, asked = parts((1, (2, 4)), (1, (3, 3))), call()
        edit, _ = joint(FULL, pairs, weights=(1.0, 1e-8))
        alone, _ = joint(FULL, pairs[:1])
        torch.testing.assert_close(edited(edit, asked), edited(alone, asked), atol=1e-5, rtol=0)

    def test_a_whole_number_as_weight_is_that_many_copies(self):
        pairs, asked = parts((1, (2, 4)), (1, (3, 3))), call()
        weighted, _ = joint(FULL, pairs, weights=(3.0, 1.0))
        copies, _ = joint(FULL, [pairs[0]] * 3 + pairs[1:])
        torch.testing.assert_close(edited(weighted, asked), edited(copies, asked), atol=2e-6, rtol=0)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision(self, dtype):
        pairs, asked = parts((1, (2, 4)), (1, (3, 3))), call()
        edit, _ = joint(FULL, pairs, weights=(1.0, 7.0))
        halves = dataclasses.replace(asked, **{name: getattr(asked, name).to(dtype) for name in "qkv"})
        found = edited(edit, halves)
        assert found.dtype == dtype
        exact = dataclasses.replace(asked, **{name: getattr(halves, name).float() for name in "qkv"})
        torch.testing.assert_close(found.float(), edited(edit, exact), atol=0.03, rtol=0)

    def test_without_masks_nothing_is_copied(self):
        pairs = parts((3, (2, 4)))
        union = united(pairs)
        for (_, layer, letter, kept), (_, _, _, whole) in zip(pairs[0][0].items(), union.color.items(), strict=True):
            assert kept.data_ptr() == whole.data_ptr(), (layer, letter)

    def test_what_it_holds_on_a_device(self):
        edit, _ = joint(FULL, parts((2, (2, 4)), (1, (3, 3))), precomputed=False)
        one, _ = joint(FULL, parts((1, (2, 4))), precomputed=False)
        there = torch.device("meta")
        # 25 tokens of the references beside 6 of the input, in place of 8: k and v, and the gray k
        assert edit.holds(there) - one.holds(there) == len(LAYERS) * (25 - 8) * 3 * naive.WIDTH * 4


class TestSplit:
    def test_values_come_back_to_their_places(self):
        pairs = parts((2, (2, 4)), (1, (3, 2)))
        mask = torch.zeros(1, 2, 4)
        mask[0, 1, 2:] = 1
        union = united(pairs, [None, mask, None])
        first, second, third = union.split(naive.LAYER, torch.arange(1.0, 17.0))
        assert first.flatten().tolist() == list(range(1, 9))
        assert second.tolist() == [[0, 0, 0, 0], [0, 0, 9, 10]]
        assert third.tolist() == [[11, 12], [13, 14], [15, 16]]

    def test_confidence_over_all(self):
        q, k = torch.zeros(1, 8), torch.zeros(4, 8)
        even = confidence(q, k, 2)
        one = confidence(q, k, 2, torch.tensor([0.0, -40.0, -40.0, -40.0]))
        assert even.item() == pytest.approx(0, abs=1e-6) and one.item() == pytest.approx(1, abs=1e-6)


class TestRefusals:
    @pytest.mark.parametrize(
        "more, said",
        [
            ({"masks": [None]}, "reference_mask: found 1 for 2 reference"),
            ({"masks": [None] * 3}, "reference_mask: found 3 for 2 reference"),
            ({"weights": (1.0, 1.0, 1.0)}, "weights: found 3 for 2 reference"),
            ({"weights": (1.0, 0.0)}, "weights: found .* above 0"),
            ({"masks": [torch.zeros(1, 4, 4), torch.full((1, 4, 4), 0.5)]}, "reference_mask: found masks with nothing"),
        ],
    )
    def test_what_does_not_fit(self, more, said):
        with pytest.raises(ValueError, match=said):
            united(parts((2, (2, 4))), **more)

    @pytest.mark.parametrize(
        "spoil, said",
        [
            (lambda color, gray: (color.only({}), gray), "reference_inversion_2: found no attention features"),
            (lambda color, gray: (color, gray.only({})), "gray_inversion_2: found no attention features"),
            (
                lambda color, gray: (color.only(dict.fromkeys(LAYERS, "k")), gray),
                "reference_inversion_2: found features",
            ),
            (lambda color, gray: (color, gray.take([0, 0])), "gray_inversion_2: found 2 picture"),
            (lambda color, gray: (color, bank(1, (1, 9), 9)), r"gray_inversion_2: found \(1, 9\) tokens at"),
        ],
    )
    def test_inversions_that_do_not_fit(self, spoil, said):
        first, second = parts((1, (2, 4)), (1, (3, 3)))
        with pytest.raises(ValueError, match=said):
            united([first, spoil(*second)])
