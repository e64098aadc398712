"""Scores become masks: their size, threshold, and whose place it is."""

import logging

import pytest
import torch

from comfyui_exemplar.pipelines.clipseg import ReferringSettings, masks_from_scores, refer, tinted

#: Two phrases over four places in a row: sure, unsure, the other's, nobody's.
SCORES = torch.tensor([[[[4.0, 0.5, -1.0, -4.0]], [[-4.0, 0.2, 3.0, -5.0]]]])


def masks(**settings):
    return masks_from_scores(SCORES, (1, 4), ReferringSettings(**settings))[0, :, 0]


class TestMasks:
    def test_threshold(self):
        assert masks(threshold=0.5, exclusive=False).tolist() == [[1, 1, 0, 0], [0, 1, 1, 0]]
        assert masks(threshold=0.9, exclusive=False).tolist() == [[1, 0, 0, 0], [0, 0, 1, 0]]

    def test_a_place_belongs_to_its_likeliest_phrase(self):
        assert masks(threshold=0.5).tolist() == [[1, 1, 0, 0], [0, 0, 1, 0]]

    def test_soft(self):
        torch.testing.assert_close(masks(threshold=0.0, exclusive=False), SCORES[0, :, 0].sigmoid())
        soft = masks(threshold=0.0)
        assert soft[1, 0] == 0 and torch.isclose(soft[0, 0], SCORES[0, 0, 0, 0].sigmoid())

    @pytest.mark.parametrize("size", [(7, 5), (40, 33), (1, 1)])
    def test_any_size(self, size):
        found = masks_from_scores(torch.randn(2, 3, 6, 6), size, ReferringSettings())
        assert found.shape == (2, 3, *size)
        assert set(found.unique().tolist()) <= {0.0, 1.0} and found.sum(1).max() <= 1

    @pytest.mark.parametrize("threshold", [-0.1, 1.0])
    def test_bad_threshold(self, threshold):
        with pytest.raises(ValueError, match="threshold is"):
            ReferringSettings(threshold)


def brightness(images, phrases):
    """A segmenter that finds bright places for the first phrase and dark ones for the rest."""
    light = images.mean(-1)
    return torch.stack([10 * (light - 0.5) if i == 0 else 10 * (0.5 - light) for i in range(len(phrases))], 1)


class TestRefer:
    def test_picture_after_picture(self):
        images = torch.zeros(2, 8, 6, 3)
        images[0, :4] = images[1, :, :3] = 1
        done = []
        found = refer(brightness, images, ["bright", "dark"], ReferringSettings(0.5), done.append)
        assert found.shape == (4, 8, 6) and done == [1, 2]
        assert torch.equal(found[0], images[0, ..., 0]) and torch.equal(found[1], 1 - images[0, ..., 0])
        assert torch.equal(found[2], images[1, ..., 0])

    def test_nothing_found_is_said(self, caplog):
        with caplog.at_level(logging.WARNING):
            refer(brightness, torch.zeros(1, 4, 4, 3), ["bright", "dark"], ReferringSettings(0.5))
        assert [r.getMessage() for r in caplog.records] == [
            "'bright' is nowhere in picture 1 at a threshold of 0.50; the likeliest place has 0.01."
        ]

    @pytest.mark.parametrize("phrases", [[], [" "]])
    def test_no_phrases(self, phrases):
        with pytest.raises(ValueError, match="no phrase to look for"):
            refer(brightness, torch.zeros(1, 4, 4, 3), phrases, ReferringSettings())

    def test_tinted(self):
        images = torch.rand(2, 4, 4, 3)
        masks = torch.zeros(4, 4, 4)
        masks[0, 0] = masks[3, 1] = 1
        shown = tinted(images, masks)
        gray = images.mean(-1, keepdim=True).expand(-1, -1, -1, 3)
        assert shown.shape == images.shape
        assert not torch.allclose(shown[0, 0], gray[0, 0]) and torch.equal(shown[0, 1:], gray[0, 1:])
        assert not torch.allclose(shown[1, 1], gray[1, 1]) and torch.equal(shown[1, 2:], gray[1, 2:])
