"""Token alignment, word swaps and weights."""

import pytest
import torch

from comfyui_exemplar.attention.alignment import (
    align,
    concept_control,
    equalizer,
    refinement,
    replacement,
)

BEGIN, END = 100, 101


@pytest.mark.parametrize(
    "source, target, wanted",
    [
        ([BEGIN, END], [BEGIN, 1, 2, END], [0, -1, -1, 1]),
        ([BEGIN, 1, 2, END], [BEGIN, 1, 9, 2, END], [0, 1, -1, 2, 3]),
        ([BEGIN, 1, 9, 2, END], [BEGIN, 1, 2, END], [0, 1, 3, 4]),
        ([BEGIN, 1, 2, END], [BEGIN, 1, 3, END], [0, 1, -1, 3]),  # a swapped word has no counterpart
        ([1, 1, 2], [1, 2], [0, 2]),  # of equal ones the earlier
        ([], [1, 2], [-1, -1]),
        ([1, 2], [], []),
    ],
)
def test_align(source, target, wanted):
    assert align(source, target) == wanted


def test_refinement_keeps_padding_in_its_place():
    refine = refinement([BEGIN, END], [BEGIN, 1, 2, END], (7, 7))
    assert refine.mapper.tolist() == [0, -1, -1, 1, 4, 5, 6]
    assert refine.alphas.tolist() == [1, 0, 0, 1, 1, 1, 1]
    # a longer target has padding that the source lacks
    assert refinement([1], [1], (2, 4)).mapper.tolist() == [0, 1, -1, -1]


def test_replacement_of_equally_long_words():
    mapper = replacement([BEGIN, 1, 2, END], [BEGIN, 1, 5, END], (6, 6)).mapper
    assert torch.equal(mapper, torch.eye(6))


def test_replacement_shares_a_word_out():
    """One token gives its attention to two; what was looked at once is looked at once still."""
    words = ([0, 1, 2, 0], [0, 1, 2, 2, 0])
    mapper = replacement([BEGIN, 1, 2, END], [BEGIN, 1, 5, 6, END], (7, 7), words).mapper
    assert mapper[2].tolist() == [0, 0, 0.5, 0.5, 0, 0, 0]
    assert mapper[3].tolist() == [0, 0, 0, 0, 1, 0, 0]  # end mark to end mark
    assert mapper[:4].sum(1).tolist() == [1, 1, 1, 1]
    back = replacement([BEGIN, 1, 5, 6, END], [BEGIN, 1, 2, END], (7, 7), words[::-1]).mapper
    assert back[:, 2].tolist() == [0, 0, 1, 1, 0, 0, 0]


def test_replacement_needs_equally_many_words():
    with pytest.raises(ValueError, match="3 words or marks and the target 4"):
        replacement([BEGIN, 1, END], [BEGIN, 1, 2, END], (6, 6))


def test_prompts_must_fit():
    with pytest.raises(ValueError, match="target prompt has 3 tokens for 2 columns"):
        refinement([1], [1, 2, 3], (2, 2))


def test_equalizer():
    assert equalizer(4, {1: 2.0, 3: 0.0}).tolist() == [1, 2, 1, 0]
    with pytest.raises(ValueError, match="column 4"):
        equalizer(4, {4: 1.0})


class TestConcept:
    def test_weight_is_on_the_vectors_or_one_place_early(self):
        for place, wanted in (("intended", [1, 0.5, 0.5, 1, 1, 1]), ("official", [0.5, 0.5, 1, 1, 1, 1])):
            control = concept_control((6, 6), 2, 1, weight_place=place)
            assert control.edits[0].mapper.tolist() == [0, -1, -1, 1, 4, 5]
            assert control.edits[1].equalizer.tolist() == wanted

    def test_an_encoder_without_marks(self):
        """There the official place is the intended one."""
        for place in ("intended", "official"):
            control = concept_control((6, 6), 2, 0, weight_place=place)
            assert control.edits[0].mapper.tolist() == [-1, -1, 2, 3, 4, 5]
            assert control.edits[1].equalizer.tolist() == [0.5, 0.5, 1, 1, 1, 1]

    def test_weight_one_is_no_edit(self):
        assert len(concept_control((6, 6), 2, 1, weight=1).edits) == 1

    def test_bad_numbers(self):
        with pytest.raises(ValueError, match="expected 1 to 4"):
            concept_control((6, 6), 5, 1)
        with pytest.raises(ValueError, match="weight_place is 'x'"):
            concept_control((6, 6), 1, 1, weight_place="x")
