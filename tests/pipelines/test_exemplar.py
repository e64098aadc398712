"""The whole flow on a tiny random model: what must hold whatever the colors turn out to be."""

import pytest
import torch

from comfyui_exemplar.color import desaturate, drop_alpha, luminance, resize, rgb_to_lab
from comfyui_exemplar.color.sizes import working_size
from comfyui_exemplar.pipelines.exemplar import colorize

from ..fixtures.exemplar import QUICK, muted, picture, quick


class TestShapesAndLuminance:
    @pytest.mark.parametrize(
        "size, reference_size",
        [
            ((32, 32), (32, 32)),
            ((48, 24), (24, 48)),
            ((33, 57), (41, 19)),  # odd
            ((70, 64), (32, 32)),  # larger than the model works at
            ((7, 5), (32, 32)),  # smaller
            ((2, 40), (32, 32)),  # thin
            ((40, 2), (2, 2)),
        ],
    )
    def test_the_result_has_the_input_s_own_size_and_luminance(self, host, size, reference_size):
        image, reference = picture(1, *size), picture(1, *reference_size, seed=1)
        result = colorize(host, image, reference, QUICK)
        assert result.images.shape == image.shape and result.images.dtype == image.dtype
        assert result.images.min() >= 0 and result.images.max() <= 1
        difference = (luminance(result.images) - luminance(image)).abs().max().item()
        assert difference < 0.01, f"CIE L differs by up to {difference} of 100"
        chroma = rgb_to_lab(result.images)[..., 1:].norm(dim=-1).mean().item()
        assert chroma > 1, f"mean chroma {chroma}: nothing was colored"

    def test_dark_and_light_ends_too(self, host):
        image = torch.linspace(0, 1, 32)[None, None, :, None].repeat(1, 32, 1, 3)
        result = colorize(host, image, picture(seed=1), QUICK)
        assert (luminance(result.images) - luminance(image)).abs().max() < 0.05

    def test_only_luminance_of_the_input_is_used(self, host):
        image, reference = picture(), picture(seed=1)
        colored, gray = (colorize(host, x, reference, QUICK).images for x in (image, desaturate(image)))
        torch.testing.assert_close(colored, gray, atol=2e-3, rtol=0)

    def test_a_reference_without_color_gives_a_picture_without_color(self, host):
        result = colorize(host, picture(), desaturate(picture(seed=1)), QUICK)
        assert rgb_to_lab(result.images)[..., 1:].abs().max() < 1.0

    def test_matched_chroma_has_the_reference_s_statistics(self, host):
        """Mean and deviation of (a, b), where no color had to be pulled into sRGB."""
        image, reference = picture(), 0.5 + 0.2 * (picture(seed=1) - 0.5)
        ours, theirs = (
            rgb_to_lab(x)[..., 1:].flatten(0, 2) for x in (colorize(host, image, reference, QUICK).images, reference)
        )
        torch.testing.assert_close(ours.mean(0), theirs.mean(0), atol=0.1, rtol=0)
        torch.testing.assert_close(ours.std(0), theirs.std(0), atol=0.3, rtol=0)

    def test_alpha_is_laid_on_white(self, host):
        image, reference = picture(channels=4), picture(channels=4, seed=1)
        result = colorize(host, image, reference, QUICK).images
        assert result.shape[-1] == 3
        assert torch.equal(result, colorize(host, drop_alpha(image), drop_alpha(reference), QUICK).images)

    def test_one_channel(self, host):
        image = picture(channels=1)
        result = colorize(host, image, picture(seed=1), QUICK).images
        assert torch.equal(result, colorize(host, image.repeat(1, 1, 1, 3), picture(seed=1), QUICK).images)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
    def test_other_dtypes_come_back_as_they_were(self, host, base, dtype):
        result = colorize(host, picture().to(dtype), picture(seed=1).to(dtype), QUICK).images
        assert result.dtype == dtype
        torch.testing.assert_close(result.float(), base.images, atol=0.02, rtol=0)

    def test_pictures_are_left_alone_and_runs_repeat_bit_for_bit(self, host, base):
        image, reference = picture(), picture(seed=1)
        assert torch.equal(colorize(host, image, reference, QUICK).images, base.images)
        assert torch.equal(image, picture()) and torch.equal(reference, picture(seed=1))


class TestBatches:
    @pytest.mark.parametrize("references, size", [(1, (24, 40)), (3, (32, 32))])
    def test_a_batch_equals_its_pictures_one_by_one(self, host, references, size):
        images, reference = picture(3, *size), muted(references)
        whole = colorize(host, images, reference, QUICK).images
        for i in range(3):
            alone = colorize(host, images[i : i + 1], reference[i % references][None], QUICK).images
            difference = (whole[i : i + 1] - alone).abs().max().item()
            assert difference < 1e-4, f"picture {i} differs by {difference}"
        assert (whole[0] - whole[1]).abs().max() > 0.01

    def test_each_input_listens_to_its_own_reference(self, host):
        images, reference = picture(1).repeat(2, 1, 1, 1), picture(2, seed=1)
        result = colorize(host, images, reference, QUICK).images
        assert (rgb_to_lab(result[:1]) - rgb_to_lab(result[1:])).abs().mean() > 1


class TestPrepared:
    @pytest.mark.parametrize("references", [1, 2])
    def test_the_same_as_fresh(self, host, references):
        images, reference = picture(2), muted(references)
        fresh = colorize(host, images, reference, QUICK)
        again = colorize(host, images, reference, QUICK, prepared=fresh.reference)
        torch.testing.assert_close(again.images, fresh.images, atol=1e-4, rtol=0)
        assert again.reference is fresh.reference

    def test_another_input_of_another_size(self, host):
        reference = muted()
        ready = colorize(host, picture(), reference, QUICK).reference
        other = picture(1, 24, 56, seed=2)
        fresh, again = (colorize(host, other, reference, QUICK, prepared=p).images for p in (None, ready))
        torch.testing.assert_close(again, fresh, atol=1e-4, rtol=0)

    def test_without_the_picture_when_nothing_asks_for_its_statistics(self, host):
        settings = quick(match_chroma=0.0)
        fresh = colorize(host, picture(), picture(seed=1), settings)
        again = colorize(host, picture(), None, settings, prepared=fresh.reference)
        torch.testing.assert_close(again.images, fresh.images, atol=1e-4, rtol=0)

    def test_use_does_not_change_it(self, host, base):
        ready = base.reference
        before = [tensor.clone() for part in (ready.color, ready.gray) for *_, tensor in part.bank.items()]
        colorize(host, picture(seed=5), picture(seed=1), QUICK, prepared=ready)
        after = [tensor for part in (ready.color, ready.gray) for *_, tensor in part.bank.items()]
        assert before and all(map(torch.equal, before, after))


class TestMasks:
    def test_color_only_where_the_source_mask_is(self, host):
        mask = torch.zeros(1, 32, 32)
        mask[:, :, 16:] = 1
        image = picture()
        found = rgb_to_lab(colorize(host, image, picture(seed=1), QUICK, source_mask=mask).images)[..., 1:]
        assert found[:, :, :16].abs().max() < 0.5 and found[:, :, 16:].norm(dim=-1).mean() > 1

    def test_a_mask_a_picture(self, host):
        masks = torch.stack([torch.ones(32, 32), torch.zeros(32, 32)])
        found = rgb_to_lab(colorize(host, picture(2), picture(seed=1), QUICK, source_mask=masks).images)[..., 1:]
        assert found[0].norm(dim=-1).mean() > 1 and found[1].abs().max() < 0.5

    def test_the_reference_mask_changes_where_color_comes_from(self, host, base):
        mask = torch.zeros(1, 32, 32)
        mask[:, :8, :8] = 1
        part, full = (
            colorize(host, picture(), picture(seed=1), QUICK, reference_mask=m).images
            for m in (mask, torch.ones(1, 32, 32))
        )
        assert torch.equal(base.images, full) and (base.images - part).abs().max() > 0.005


class TestSizes:
    @pytest.mark.parametrize(
        "size, resolution, expected",
        [
            ((512, 512), 512, (512, 512)),
            ((1024, 512), 512, (728, 360)),  # the same area: 724 x 362
            ((100, 400), 64, (32, 128)),
            ((2, 4000), 64, (8, 2864)),  # no side below the minimum
            ((45, 70), 0, (44, 72)),  # own size, rounded to what a latent covers
            ((3, 3), 0, (8, 8)),
        ],
    )
    def test_area_of_the_square_in_the_picture_s_aspect_ratio(self, size, resolution, expected):
        assert working_size(*size, resolution, 8, 4) == expected

    def test_resize_stays_in_range_and_keeps_what_fits(self):
        image = (picture() > 0.5).float()
        assert resize(image, (32, 32)) is image
        small = resize(image, (11, 70))
        assert small.shape == (1, 11, 70, 3) and small.min() >= 0 and small.max() <= 1
        flat = torch.full((1, 9, 7, 3), 0.3)
        torch.testing.assert_close(resize(flat, (20, 5)), torch.full((1, 20, 5, 3), 0.3))
