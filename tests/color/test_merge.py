"""Luminance merge."""

import pytest
import torch

from comfyui_exemplar.color import (
    ab_error,
    chroma_of,
    desaturate,
    luminance,
    luminance_error,
    merge_chroma,
    merge_luminance,
    rgb_to_lab,
)


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def muted(*shape, seed=0):
    """Random colors far from the border of the gamut."""
    return 0.45 + 0.1 * random(*shape, seed=seed)


def test_own_luminance_and_chroma_give_the_picture_back():
    image = random(2, 13, 9, 3)
    merged = merge_luminance(image, desaturate(image))
    # Pixels on the border of the gamut may lose a trace of chroma.
    assert (merged - image).abs().max() < 1e-3
    assert not torch.equal(merged, desaturate(image))


@pytest.mark.parametrize("size", [(8, 8), (64, 50), (1, 1), (37, 5)])
def test_full_size_luminance(size):
    gray = desaturate(random(1, 33, 21, 3))
    color = random(1, *size, 3, seed=1)
    merged = merge_luminance(color, gray)
    assert merged.shape == gray.shape
    assert merged.min() >= 0 and merged.max() <= 1
    assert (luminance(merged) - luminance(gray)).abs().max() < 2e-3
    assert ab_error(merged, gray).item() > 1


def test_clip_is_more_saturated_and_loses_luminance():
    gray, color = desaturate(random(1, 33, 21, 3)), random(1, 33, 21, 3, seed=1)
    fit, clip = merge_luminance(color, gray), merge_luminance(color, gray, gamut="clip")
    assert luminance_error(clip, gray) > 100 * luminance_error(fit, gray)
    assert ab_error(clip, gray) > ab_error(fit, gray)


def test_enlarging_is_bilinear():
    color, gray = muted(1, 6, 5, 3), torch.full((1, 18, 20, 3), 0.5)
    expected = torch.nn.functional.interpolate(
        rgb_to_lab(color)[..., 1:].movedim(-1, 1), (18, 20), mode="bilinear", align_corners=False
    ).movedim(1, -1)
    assert (rgb_to_lab(merge_luminance(color, gray, upsampling="smooth"))[..., 1:] - expected).abs().max() < 1e-2


def test_shrinking_is_antialiased():
    # By 3, an odd factor: there plain bilinear sampling hits single stripes.
    stripes = torch.full((1, 8, 66, 3), 0.5)
    stripes[:, :, ::2, 0] = 0.55
    stripes[:, :, 1::2, 0] = 0.45
    merged = rgb_to_lab(merge_luminance(stripes, torch.full((1, 8, 22, 3), 0.5)))[..., 1:]
    mean = rgb_to_lab(stripes)[..., 1:].mean((1, 2))
    # Away from the borders, where the kernel is cut, nearly nothing is left of the stripes.
    assert (merged[:, :, 2:-2] - mean).abs().max() < 1
    assert rgb_to_lab(stripes)[..., 1].std() > 4


def test_statistics_of_a_reference():
    color, reference, gray = muted(1, 16, 16, 3), muted(1, 9, 30, 3, seed=1), torch.full((1, 16, 16, 3), 0.5)
    reference = reference * torch.tensor([1.1, 1.0, 0.8])
    expected = rgb_to_lab(reference)[..., 1:]
    chroma = rgb_to_lab(merge_luminance(color, gray, statistics_from=reference))[..., 1:]
    assert torch.allclose(chroma.mean((1, 2)), expected.mean((1, 2)), atol=2e-2)
    assert torch.allclose(chroma.std((1, 2)), expected.std((1, 2)), rtol=1e-2)
    unmatched = merge_luminance(color, gray)
    assert torch.equal(merge_luminance(color, gray, statistics_from=reference, statistics_strength=0), unmatched)
    assert ab_error(merge_luminance(color, gray, statistics_from=reference), unmatched) > 1


def test_gray_color_image_stays_without_noise():
    gray = desaturate(random(1, 9, 9, 3))
    flat = torch.full((1, 9, 9, 3), 0.3)
    merged = merge_luminance(flat, gray, statistics_from=random(1, 8, 8, 3, seed=2))
    assert torch.isfinite(merged).all()
    assert (luminance(merged) - luminance(gray)).abs().max() < 2e-3


def test_no_chroma_strength():
    color, photo = random(1, 4, 4, 3), random(1, 9, 7, 3, seed=1)
    gray = desaturate(photo)
    assert merge_luminance(color, gray, saturation=0) is gray
    assert torch.equal(merge_luminance(color, photo, saturation=0), gray)
    assert merge_luminance(color.repeat(3, 1, 1, 1), gray, saturation=0).shape == (3, 9, 7, 3)


def test_chroma_strength_scales():
    color, gray = muted(1, 9, 9, 3), torch.full((1, 9, 9, 3), 0.5)
    once, half = (rgb_to_lab(merge_luminance(color, gray, saturation=s))[..., 1:] for s in (1.0, 0.5))
    assert torch.allclose(half, once / 2, atol=1e-2) and once.abs().max() > 5


def test_mask():
    color, gray = muted(2, 16, 16, 3), desaturate(random(2, 16, 16, 3, seed=1))
    mask = torch.zeros(1, 16, 16)
    mask[:, :, 8:] = 1
    merged, whole = merge_luminance(color, gray, mask=mask), merge_luminance(color, gray)
    assert (merged[:, :, :8] - gray[:, :, :8]).abs().max() < 1e-4
    assert torch.equal(merged[:, :, 8:], whole[:, :, 8:])
    assert ab_error(whole, gray).min() > 1
    small = torch.nn.functional.interpolate(mask[None], (4, 4), mode="area")[0]
    assert (merge_luminance(color, gray, mask=small)[:, :, :5] - gray[:, :, :5]).abs().max() < 1e-4
    both = torch.stack([mask[0], 1 - mask[0]])
    assert torch.equal(merge_luminance(color, gray, mask=both)[:1], merged[:1])
    assert torch.equal(merge_luminance(color, gray, mask=both)[1:, :, :8], whole[1:, :, :8])


@pytest.mark.parametrize("colors,grays,references", [(3, 3, 3), (3, 1, 1), (1, 3, 1), (1, 1, 3), (3, 3, 1), (1, 3, 3)])
def test_batch_equals_one_by_one(colors, grays, references):
    color, gray = random(colors, 5, 6, 3), random(grays, 9, 7, 3, seed=1)
    reference = random(references, 4, 4, 3, seed=2)
    together = merge_luminance(color, gray, statistics_from=reference)
    assert together.shape == (3, 9, 7, 3)
    for index in range(3):
        c, g, r = (pictures[index % len(pictures)][None] for pictures in (color, gray, reference))
        assert torch.equal(together[index], merge_luminance(c, g, statistics_from=r)[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_of_the_gray_picture(dtype):
    merged = merge_luminance(random(1, 4, 4, 3), desaturate(random(1, 5, 5, 3)).to(dtype))
    assert merged.dtype == dtype and torch.isfinite(merged).all()


def test_what_does_not_fit_is_refused():
    two, three, mask = random(2, 4, 4, 3), random(3, 4, 4, 3), torch.ones(2, 4, 4)
    with pytest.raises(ValueError, match="found color_image 2, image 3; expected"):
        merge_luminance(two, three)
    with pytest.raises(ValueError, match="mask 2"):
        merge_luminance(three, three, mask=mask)
    with pytest.raises(ValueError, match="statistics_from 2"):
        merge_luminance(three, three, statistics_from=two)
    with pytest.raises(ValueError, match="mask"):
        merge_luminance(two, two, mask=mask[0])
    with pytest.raises(ValueError, match="image: found 4 channels"):
        merge_luminance(two, random(2, 4, 4, 4))
    with pytest.raises(ValueError, match="'wrap'"):
        merge_luminance(two, two, gamut="wrap")


class TestMergeChroma:
    def test_chroma_of_a_picture_merges_as_the_picture_does(self):
        color, gray = muted(2, 8, 6, 3), desaturate(random(2, 32, 24, 3, seed=1))
        merged = merge_chroma(chroma_of(color), gray)
        assert torch.equal(merged, merge_luminance(color, gray))

    def test_statistics_of_another_picture(self):
        color, gray, other = muted(1, 8, 8, 3), desaturate(muted(1, 8, 8, 3)), muted(1, 5, 5, 3, seed=3)
        found = merge_chroma(chroma_of(color, other, 0.5), gray)
        assert torch.equal(found, merge_luminance(color, gray, statistics_from=other, statistics_strength=0.5))

    def test_strength_goes_from_the_picture_itself_to_the_new_color(self):
        image, chroma = muted(1, 16, 16, 3), chroma_of(muted(1, 16, 16, 3, seed=1))
        assert merge_chroma(chroma, image, strength=0.0) is image
        own = rgb_to_lab(image)[..., 1:]
        for strength in (0.25, 1.0):
            found = rgb_to_lab(merge_chroma(chroma, image, strength=strength))[..., 1:]
            assert (found - (own + strength * (chroma - own))).abs().max() < 1e-2

    def test_saturation_scales_the_new_color(self):
        gray, chroma = torch.full((1, 6, 6, 3), 0.5), chroma_of(muted(1, 6, 6, 3))
        for saturation in (0.0, 0.5, 2.0):
            found = rgb_to_lab(merge_chroma(chroma, gray, saturation=saturation))[..., 1:]
            assert (found - saturation * chroma).abs().max() < 1e-2

    def test_outside_of_the_mask_the_picture_stays(self):
        image, chroma = muted(1, 8, 8, 3), chroma_of(muted(1, 8, 8, 3, seed=1))
        mask = torch.zeros(1, 8, 8)
        mask[:, :, 4:] = 1
        found = merge_chroma(chroma, image, mask=mask)
        assert (found[:, :, :4] - image[:, :, :4]).abs().max() < 1e-4
        assert (rgb_to_lab(found)[:, :, 4:, 1:] - chroma[:, :, 4:]).abs().max() < 1e-2

    def test_one_chroma_for_many_pictures(self):
        grays, chroma = desaturate(random(3, 12, 12, 3)), chroma_of(muted(1, 4, 4, 3))
        found = merge_chroma(chroma, grays)
        assert torch.equal(found[2:], merge_chroma(chroma, grays[2:]))

    @pytest.mark.parametrize(
        "chroma, options, match",
        [
            (torch.zeros(1, 4, 4, 3), {}, "chroma: found 3 channels, expected 2"),
            (torch.zeros(2, 4, 4, 2), {}, "Batch sizes do not fit"),
            (torch.zeros(1, 4, 4, 2), {"gamut": "wide"}, "found gamut 'wide'"),
            (torch.zeros(1, 4, 4, 2), {"upsampling": "sharp"}, "found upsampling 'sharp'"),
        ],
    )
    def test_refusals(self, chroma, options, match):
        with pytest.raises(ValueError, match=match):
            merge_chroma(chroma, random(3, 4, 4, 3), **options)
