"""The dual-attention edit under masks: where color may go, and where it may come from."""

import dataclasses

import pytest
import torch

from .dual_edit import FIXED, FULL, banks, call, check, edited, formula, make


class TestSourceMask:
    def test_color_only_there(self):
        mask = torch.zeros(1, 4, 6)  # two pixels a token each way
        mask[:, :, 2:4] = 1  # the middle column of tokens
        three, asked = banks(), call(branches=(1, 0))
        found = edited(make(FULL, three, source_mask=mask), asked)
        inside = torch.tensor([False, True, False] * 2)
        check(found[1][inside], formula(FULL, three, asked, 1)[inside])
        assert torch.equal(found[1][~inside], asked.plain()[1][~inside])
        assert torch.equal(found[0], asked.plain()[0])

    def test_soft_edges_and_strength_multiply(self):
        mask = torch.full((1, 2, 3), 0.5)
        three, asked = banks(), call()
        settings = dataclasses.replace(FULL, strength=0.5)
        found = edited(make(settings, three, source_mask=mask), asked)
        check(found[0], 0.75 * asked.plain()[0] + 0.25 * formula(FULL, three, asked, 0))

    def test_one_mask_a_picture(self):
        mask = torch.stack([torch.zeros(2, 3), torch.ones(2, 3)])
        three, asked = banks(inputs=2), call(batch=2)
        found = edited(make(FULL, three, source_mask=mask), asked)
        assert torch.equal(found[0], asked.plain()[0])
        check(found[1], formula(FULL, three, asked, 1))


class TestReferenceMask:
    @pytest.mark.parametrize("settings", [FULL, dataclasses.replace(FULL, mix="after softmax"), FIXED])
    def test_same_as_attention_over_the_selected_keys(self, settings):
        mask = torch.zeros(1, 2, 4)
        mask[0, 0, 1] = mask[0, 1, 2:] = 1
        three, asked = banks(), call()
        edit = make(settings, three, reference_mask=mask, precomputed=True)
        check(edited(edit, asked)[0], formula(settings, three, asked, 0, key_tokens=[1, 6, 7]))

    def test_a_full_mask_changes_nothing(self):
        three, asked = banks(), call()
        masked = make(FULL, three, reference_mask=torch.ones(1, 5, 9))
        assert torch.equal(edited(masked, asked), edited(make(FULL, three), asked))

    def test_a_region_smaller_than_a_token_keeps_the_token_it_is_in(self):
        mask = torch.zeros(1, 40, 80)
        mask[0, 25, 70] = 1  # one pixel of the 400 of token 7
        three, asked = banks(), call()
        edit = make(FULL, three, reference_mask=mask)
        check(edited(edit, asked)[0], formula(FULL, three, asked, 0, key_tokens=[7]))

    @pytest.mark.parametrize("value", [0.0, 0.5])
    def test_an_empty_mask(self, value):
        with pytest.raises(ValueError, match="reference_mask: found a mask with nothing above one half"):
            make(FULL, banks(), reference_mask=torch.full((1, 4, 4), value))

    def test_one_empty_mask_of_two(self):
        masks = torch.stack([torch.ones(4, 4), torch.zeros(4, 4)])
        with pytest.raises(ValueError, match="reference_mask: found a mask with nothing above one half"):
            make(FULL, banks(2, 2), reference_mask=masks)

    def test_different_masks_a_reference(self):
        masks = torch.zeros(2, 2, 4)
        masks[0, 0, :2] = masks[1, 1, 2:] = 1
        three, asked = banks(2, 2), call(branches=(1, 0), batch=2)
        found = edited(make(FULL, three, reference_mask=masks), asked)
        check(found[2], formula(FULL, three, asked, 2, key_tokens=[0, 1]))
        check(found[3], formula(FULL, three, asked, 3, key_tokens=[6, 7]))

    def test_masks_of_different_sizes_in_one_batch(self):
        masks = torch.zeros(2, 2, 4)
        masks[0, 0, :2] = masks[1, 1, 1:] = 1
        three = banks(2, 2)
        asked = call(batch=2)
        found = edited(make(FULL, three, reference_mask=masks), asked)
        check(found[0], formula(FULL, three, asked, 0, key_tokens=[0, 1]))
        check(found[1], formula(FULL, three, asked, 1, key_tokens=[5, 6, 7]))

    def test_one_mask_for_each_reference_or_for_all(self):
        with pytest.raises(ValueError, match="reference_mask: found 2 for 1 picture"):
            make(FULL, banks(2, 1), reference_mask=torch.ones(2, 4, 4))
