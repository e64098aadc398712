"""What exemplar colorization says to what cannot work, before the model runs."""

import dataclasses

import pytest
import torch

from comfyui_exemplar.attention.dual_settings import DualAttentionSettings
from comfyui_exemplar.pipelines.exemplar import colorize

from ..fixtures.exemplar import QUICK, picture, quick


def nan_in(image):
    broken = image.clone()
    broken[0, 3, 3, 1] = float("nan")
    return broken


class TestRefusals:
    """Everything that cannot work is said before the model runs."""

    @pytest.mark.parametrize(
        "image, reference, message",
        [
            (nan_in(picture()), picture(), "input: found NaN"),
            (picture(), nan_in(picture()), "reference: found NaN"),
            (picture() / 0, picture(), "input: found NaN"),
            (picture()[:0], picture(), "input: found an empty batch"),
            (picture(), picture()[:0], "reference: found an empty batch"),
            (picture()[0], picture(), r"input: found a tensor of shape \(32, 32, 3\)"),
            (picture()[:, :0], picture(), "input: found an empty picture"),
            (picture(1, 1, 1), picture(), "found 1 x 1 pixels, expected at least 2"),
            (picture(1, 40, 1), picture(), "found 1 x 40 pixels, expected at least 2"),
            (picture(), picture(1, 1, 1), "found 1 x 1 pixels, expected at least 2"),
            (picture(channels=2), picture(), "2 channels"),
            (picture(channels=5), picture(), "5 channels"),
            ((picture() * 255).to(torch.uint8), picture(), "uint8"),
            (picture(2), picture(3), "reference: found 3 for 2 picture"),
            (picture(1), picture(2), "reference: found 2 for 1 picture"),
            (picture(), None, "reference: found nothing, expected a reference"),
        ],
    )
    def test_pictures(self, host, counted, image, reference, message):
        with pytest.raises(ValueError, match=message):
            colorize(host, image, reference, QUICK)
        assert counted.calls == 0

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"depth": 51}, "depth is 51"),
            ({"depth": 0}, "depth is 0"),
            ({"steps": 0}, "steps is 0"),
            ({"convention": "mine"}, "convention is 'mine'"),
            ({"attention": DualAttentionSettings(layers="outputs")}, "'outputs' names no layers"),
            ({"attention": DualAttentionSettings(layers="output.9")}, "'output.9' matches no attention layer"),
        ],
    )
    def test_settings_that_do_not_fit_the_model(self, host, counted, change, message):
        with pytest.raises(ValueError, match=message):
            colorize(host, picture(), picture(seed=1), quick(**change))
        assert counted.calls == 0

    def test_refinements_of_the_official_convention(self, host, counted):
        with pytest.raises(ValueError, match="read at the upper level"):
            colorize(host, picture(), picture(seed=1), quick(convention="official", refinements=1))
        assert counted.calls == 0

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"passes": 0}, "passes is 0"),
            ({"postprocess": "none"}, "postprocess is 'none'; expected one of exact, official"),
        ],
    )
    def test_settings_by_themselves(self, change, message):
        with pytest.raises(ValueError, match=message):
            quick(**change)

    def test_prepared_references_that_do_not_fit(self, host, counted):
        ready = colorize(host, picture(2), picture(2, seed=1), QUICK).reference
        counted.calls = 0
        other = dataclasses.replace(ready, gray=dataclasses.replace(ready.gray, model="other"))
        cases = [
            (quick(match_chroma=0.0), picture(3), ready, "reference_inversion: found 2 for 3 picture"),
            (
                quick(match_chroma=0.0),
                picture(2),
                other,
                r"made with another model \(other\), expected one of this model \(tiny\)",
            ),
            (quick(match_chroma=0.0, depth=3), picture(2), ready, "2 of 50 steps deep.*expected 3 of 50"),
            (quick(match_chroma=0.0, convention="official"), picture(2), ready, r"\(consistent\).*\(official\)"),
            (QUICK, picture(2), ready, "matching chroma statistics needs the reference picture"),
            (quick(match_chroma=0.0, postprocess="official"), picture(2), ready, "needs the reference picture"),
        ]
        for settings, images, prepared, message in cases:
            with pytest.raises(ValueError, match=message):
                colorize(host, images, None, settings, prepared=prepared)
        assert counted.calls == 0

    def test_empty_reference_mask(self, host, counted):
        with pytest.raises(ValueError, match="reference_mask: found a mask with nothing above one half"):
            colorize(host, picture(), picture(seed=1), QUICK, reference_mask=torch.zeros(1, 32, 32))
        assert counted.calls == 0

    def test_reference_masks_of_different_extent(self, host):
        """Each row looks at what its own mask leaves, however many tokens that is."""
        masks = torch.zeros(2, 32, 32)
        masks[0, :8], masks[1, :16] = 1, 1
        together = colorize(host, picture(2), picture(2, seed=1), QUICK, reference_mask=masks).latent
        for i in range(2):
            alone = colorize(
                host, picture(2)[i : i + 1], picture(2, seed=1)[i : i + 1], QUICK, reference_mask=masks[i : i + 1]
            ).latent
            torch.testing.assert_close(together[i : i + 1], alone, atol=1e-4, rtol=0)

    @pytest.mark.parametrize("name", ["source_mask", "reference_mask"])
    def test_masks_of_another_number(self, host, counted, name):
        with pytest.raises(ValueError):
            colorize(host, picture(3), picture(3, seed=1), QUICK, **{name: torch.ones(2, 32, 32)})
        assert counted.calls == 0

    def test_a_prepared_reference_that_kept_too_little(self, host, counted):
        """Made for γ = 1, which needs no keys of the reference; asked for γ = 0.5."""
        only_values = DualAttentionSettings(gamma_shallow=1.0, gamma_deep=1.0)
        ready = colorize(host, picture(), picture(seed=1), quick(attention=only_values)).reference
        counted.calls = 0
        with pytest.raises((ValueError, LookupError), match=r"found no 'k.*' of output"):
            colorize(host, picture(), picture(seed=1), QUICK, prepared=ready)
        assert counted.calls == 0
