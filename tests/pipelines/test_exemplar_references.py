"""Exemplar colorization by several references that serve every input together."""

import dataclasses

import pytest
import torch

from comfyui_exemplar.attention.dual_settings import DualAttentionSettings
from comfyui_exemplar.color import rgb_to_lab
from comfyui_exemplar.hosts.diffusers.host import DiffusersHost
from comfyui_exemplar.pipelines.exemplar import check_colorize, colorize
from comfyui_exemplar.pipelines.exemplar_batches import calls_in_batches, colorize_in_batches, joined
from comfyui_exemplar.pipelines.exemplar_references import References

from ..fixtures.exemplar import QUICK, muted, picture, quick

FIXED = DualAttentionSettings(gamma_shallow=1.0, beta_shallow=0.0)


def half(side, size=(32, 32)):
    mask = torch.zeros(1, *size)
    mask[:, :, : size[1] // 2] = 1
    return mask if side == "left" else 1 - mask


def close(found, expected, most=1e-5):
    torch.testing.assert_close(found.images, expected.images, atol=most, rtol=0)


class TestOne:
    @pytest.mark.parametrize("mask", [None, half("left")])
    def test_is_what_it_is_by_itself_bit_for_bit(self, host, mask):
        plain = colorize(host, picture(2), picture(seed=1), QUICK, reference_mask=mask)
        alone = colorize(host, picture(2), References.of(picture(seed=1), mask, (5.0,)), QUICK)
        assert torch.equal(alone.images, plain.images) and not alone.together

    def test_official_arithmetic_takes_one(self, host):
        settings = quick(postprocess="official")
        check_colorize(picture(), References.of(picture(seed=1)), None, settings)
        with pytest.raises(ValueError, match="postprocess is official, which knows one reference only"):
            check_colorize(picture(), References.of(picture(2, seed=1)), None, settings)


class TestSeveral:
    @pytest.mark.parametrize("settings", [QUICK, quick(attention=FIXED)])
    @pytest.mark.parametrize("weights", [(), (3.0, 1.0)])
    def test_the_same_one_twice_is_the_same_as_once(self, host, settings, weights):
        reference = muted()
        twice = colorize(host, picture(2), References((reference, reference), weights=weights), settings)
        close(twice, colorize(host, picture(2), reference, settings))
        assert twice.together and twice.reference.pictures == 2

    def test_masks_that_leave_one_leave_that_one(self, host):
        first, second = muted(), muted(seed=2)
        masks = (torch.ones(1, 8, 8), torch.zeros(1, 8, 8))
        close(
            colorize(host, picture(), References((first, second), masks), QUICK),
            colorize(host, picture(), first, QUICK),
        )

    def test_a_weight_near_nothing_leaves_the_other(self, host):
        first, second = muted(), muted(seed=2)
        found = colorize(host, picture(), References((first, second), weights=(1.0, 1e-7)), QUICK)
        close(found, colorize(host, picture(), first, QUICK), 1e-4)
        other = colorize(host, picture(), References((first, second), weights=(1e-7, 1.0)), QUICK)
        assert (other.images - found.images).abs().max() > 0.02

    def test_their_order_does_not_matter(self, host):
        first, second = muted(), muted(seed=2)
        masks, weights = (half("left"), half("right")), (1.0, 2.0)
        found = colorize(host, picture(), References((first, second), masks, weights), QUICK)
        turned = colorize(host, picture(), References((second, first), masks[::-1], weights[::-1]), QUICK)
        close(found, turned)

    def test_of_any_size(self, host):
        sizes = [(32, 32), (48, 24), (48, 24), (24, 48)]
        references = tuple(picture(1, *size, seed=i) for i, size in enumerate(sizes, 1))
        masks = (None, half("left", (48, 24)), None, half("right", (24, 48)))
        found = colorize(host, picture(2, 40, 33), References(references, masks, (1.0, 0.5, 2.0, 1.0)), QUICK)
        assert found.images.shape == (2, 40, 33, 3)
        assert [part.pictures for part in found.reference.parts] == [1, 2, 1] and found.reference.pictures == 4
        again = colorize(
            host,
            picture(2, 40, 33),
            References(references, masks, (1.0, 0.5, 2.0, 1.0)),
            QUICK,
            prepared=found.reference,
        )
        close(again, found)

    def test_as_many_references_as_inputs_all_serve_each(self, host):
        """What tells a batch of references from one for each input is that it is said."""
        inputs, references = picture(2), muted(2)
        found = colorize(host, inputs, References.of(references), QUICK)
        turned = colorize(host, inputs.flip(0), References.of(references), QUICK)
        torch.testing.assert_close(found.images, turned.images.flip(0), atol=1e-5, rtol=0)
        each = colorize(host, inputs, references, QUICK)
        assert (each.images - found.images).abs().max() > 0.01

    def test_statistics_are_those_of_what_is_left(self, host):
        """Chroma: the left half of one, all of another that counts three times."""
        first, second = muted(), muted(seed=2)
        references = References((first, second), (half("left"), None), (1.0, 3.0))
        found = rgb_to_lab(colorize(host, picture(), references, QUICK).images)[..., 1:].flatten(0, 2)
        left, whole = (rgb_to_lab(one)[..., 1:].flatten(0, 2) for one in (first[:, :, :16], second))
        mean = (0.5 * left.mean(0) + 3 * whole.mean(0)) / 3.5
        torch.testing.assert_close(found.mean(0), mean, atol=0.05, rtol=0)
        square = (0.5 * left.square().mean(0) + 3 * whole.square().mean(0)) / 3.5
        torch.testing.assert_close(found.std(0), (square - mean.square()).sqrt(), atol=0.05, rtol=0)

    def test_a_fallback_where_none_matches(self, host):
        references, fallback = References((muted(), muted(seed=2))), picture(seed=5)
        none = colorize(host, picture(), references, quick(fallback_below=0.0), fallback=fallback)
        everywhere = colorize(host, picture(), references, quick(fallback_below=1.0), fallback=fallback)
        assert none.from_reference is None and everywhere.from_reference.max() < 0.9
        assert (none.images - everywhere.images).abs().max() > 0.02

    @pytest.mark.parametrize("mask", [half("left")])
    def test_color_goes_where_the_input_s_mask_says(self, host, mask):
        found = colorize(host, picture(), References((muted(), muted(seed=2))), QUICK, source_mask=mask)
        chroma = rgb_to_lab(found.images)[0, ..., 1:].norm(dim=-1)
        assert chroma[:, 17:].max() < 0.5 < chroma[:, :15].mean()


class TestRounds:
    def test_inputs_and_references_some_at_a_time(self, host):
        inputs, references = picture(3), References.of(muted(5))
        whole = colorize(host, inputs, references, QUICK)
        rounds = joined(colorize_in_batches(host, inputs, references, quick(batch=2)))
        close(rounds, whole)
        assert rounds.together and rounds.reference.pictures == 5 and len(rounds.images) == 3
        close(rounds.take(1), colorize(host, inputs[1:2], references, QUICK))

    @pytest.mark.parametrize("batch", [1, 2, 8])
    def test_the_number_of_calls_is_known(self, model, counted, batch):
        references = References((muted(), muted(seed=2), picture(1, 24, 48, seed=3)))
        host, settings = DiffusersHost(model), quick(batch=batch)
        expected = calls_in_batches(host, picture(3), references, settings)
        told = []
        host.on_step = lambda _: told.append(1)
        list(colorize_in_batches(host, picture(3), references, settings))
        assert len(told) == expected

    def test_fewer_references_at_once_where_memory_ends(self, model, monkeypatch):
        host = DiffusersHost(model)
        inputs, references = picture(1), References.of(muted(4))
        expected, invert, left = colorize(host, inputs, references, QUICK), host.invert, []

        def short(latent, *more):
            if len(latent) > 4:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return invert(latent, *more)

        monkeypatch.setattr(host, "invert", short)
        found = joined(colorize_in_batches(host, inputs, references, QUICK, expect=left.append))
        close(found, expected)
        assert left == [2 * QUICK.inversion_calls() + QUICK.model_calls(True)]


class TestRefusals:
    def test_prepared_ones_of_another_number(self, host):
        made = colorize(host, picture(), References.of(muted(2)), QUICK).reference
        with pytest.raises(ValueError, match=r"reference: found 3 picture.* beside 2 inverted"):
            check_colorize(picture(), References.of(muted(3)), made, QUICK)
        without = dataclasses.replace(QUICK, match_chroma=0.0)
        with pytest.raises(ValueError, match="weights: found 3 for 2 reference"):
            check_colorize(picture(), References(weights=(1.0, 2.0, 3.0)), made, without)
        with pytest.raises(ValueError, match="reference: found nothing beside its inversions"):
            check_colorize(picture(), References(), made, QUICK)
        check_colorize(picture(), References(), made, without)

    @pytest.mark.parametrize(
        "more, said",
        [
            ({"masks": torch.ones(3, 8, 8)}, "reference_mask: found 3 for 2 picture"),
            ({"weights": (1.0, 2.0, 3.0)}, "weights: found 3 for 2 reference"),
            ({"masks": torch.zeros(2, 8, 8)}, "reference_mask: found masks with nothing above one half"),
        ],
    )
    def test_numbers_that_do_not_fit(self, more, said):
        with pytest.raises(ValueError, match=said):
            References.of(muted(2), **more)

    def test_nothing_at_all(self):
        with pytest.raises(ValueError, match="reference: found nothing, expected a reference"):
            check_colorize(picture(), References(), None, QUICK)
