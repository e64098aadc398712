"""Float Lab: known values, round trips, and the gamut fit."""

import pytest
import torch

from comfyui_exemplar.color import fit_gamut, fitted_rgb, lab_to_rgb, luminance, luminance_to_rgb, rgb_to_lab

# Published values of the sRGB primaries in CIE Lab, D65.
KNOWN = {
    (1.0, 1.0, 1.0): (100.0, 0.0, 0.0),
    (0.0, 0.0, 0.0): (0.0, 0.0, 0.0),
    (1.0, 0.0, 0.0): (53.24, 80.09, 67.20),
    (0.0, 1.0, 0.0): (87.73, -86.18, 83.18),
    (0.0, 0.0, 1.0): (32.30, 79.19, -107.86),
    (1.0, 1.0, 0.0): (97.14, -21.55, 94.48),
    (0.5, 0.5, 0.5): (53.39, 0.0, 0.0),
}


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def saturated_lab(batch=2, height=41, width=37):
    lab = random(batch, height, width, 3, seed=1)
    return torch.cat([lab[..., :1] * 100, (lab[..., 1:] - 0.5) * 400], -1)


def test_known_colors():
    rgb = torch.tensor(list(KNOWN)).view(1, 1, -1, 3)
    expected = torch.tensor(list(KNOWN.values())).view(1, 1, -1, 3)
    assert (rgb_to_lab(rgb) - expected).abs().max() < 0.02
    assert (luminance(rgb) - expected[..., 0]).abs().max() < 0.02


def test_round_trip():
    image = random(2, 65, 33, 3)
    for clip in (True, False):
        assert (lab_to_rgb(rgb_to_lab(image), clip) - image).abs().max() < 2e-5


def test_unclipped_colors_outside_of_the_gamut_convert_back():
    lab = torch.tensor([[50.0, 120.0, -90.0], [80.0, -120.0, 60.0], [20.0, 60.0, -60.0]]).view(1, 1, -1, 3)
    rgb = lab_to_rgb(lab, clip=False)
    assert rgb.min() < 0 and rgb.max() > 1
    assert (rgb_to_lab(rgb) - lab).abs().max() < 1e-2
    clipped = lab_to_rgb(lab)
    assert clipped.min() >= 0 and clipped.max() <= 1


def test_luminance_to_rgb_is_neutral_and_inverts_luminance():
    lightness = torch.linspace(0, 100, 301).view(1, 7, 43)
    gray = luminance_to_rgb(lightness)
    assert torch.equal(gray[..., 0], gray[..., 1]) and torch.equal(gray[..., 0], gray[..., 2])
    assert gray.min() >= 0 and gray.max() <= 1
    assert (luminance(gray) - lightness).abs().max() < 1e-3


def test_fit_gamut_keeps_luminance_and_hue():
    lab = saturated_lab()
    outside = (lab_to_rgb(lab, clip=False) - lab_to_rgb(lab)).abs().amax(-1) > 1e-3
    assert outside.float().mean() > 0.5
    fitted = fit_gamut(lab)
    assert torch.equal(fitted[..., 0], lab[..., 0])
    rgb = lab_to_rgb(fitted)
    assert (luminance(rgb) - lab[..., 0]).abs().max() < 2e-3
    # What clamping alone would do, for contrast: the check above must be able to fail.
    assert (luminance(lab_to_rgb(lab)) - lab[..., 0]).abs().max() > 5
    scale = fitted[..., 1:] / lab[..., 1:]
    assert (scale[..., 0] - scale[..., 1]).abs().max() < 1e-4
    assert scale.min() >= 0 and scale.max() <= 1


def test_fit_gamut_takes_the_largest_chroma_that_fits():
    lab = saturated_lab()
    outside = (lab_to_rgb(lab, clip=False) - lab_to_rgb(lab)).abs().amax(-1) > 1e-3
    fitted = fit_gamut(lab)
    # A little more chroma must leave the cube.
    more = torch.cat([fitted[..., :1], fitted[..., 1:] + 0.02 * lab[..., 1:]], -1)
    excess = (lab_to_rgb(more, clip=False) - lab_to_rgb(more)).abs().amax(-1)
    assert (excess[outside] > 1e-5).all()


def test_fit_gamut_leaves_colors_of_srgb_alone():
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 0.3, 1.0])] * 3).view(1, 1, 27, 3)
    lab = rgb_to_lab(torch.cat([corners, random(1, 1, 500, 3)], 2))
    assert torch.equal(fit_gamut(lab), lab)


def test_fitted_rgb_is_both_steps_in_one():
    lab = torch.cat([saturated_lab(), rgb_to_lab(random(2, 41, 37, 3))], 1)
    expected = lab_to_rgb(fit_gamut(lab))
    torch.testing.assert_close(fitted_rgb(lab), expected, atol=2e-6, rtol=0)
    assert (expected - lab_to_rgb(lab)).abs().max() > 0.05  # clamping alone is something else
    assert torch.equal(fitted_rgb(lab[:, 41:]), lab_to_rgb(lab[:, 41:]))


def test_fit_gamut_of_impossible_luminance_is_neutral():
    lab = torch.tensor([[-3.0, 20.0, 20.0], [120.0, 20.0, 20.0], [100.0, 30.0, 0.0], [0.0, 30.0, 0.0]]).view(1, 1, 4, 3)
    fitted = fit_gamut(lab)
    assert fitted[..., 1:].abs().max() < 0.1
    assert torch.isfinite(lab_to_rgb(fitted)).all()


@pytest.mark.parametrize("function", [rgb_to_lab, lab_to_rgb, luminance, fit_gamut, fitted_rgb])
def test_batch_equals_one_by_one(function):
    image = random(3, 7, 5, 3)
    together = function(image)
    assert torch.equal(together, torch.cat([function(image[i : i + 1]) for i in range(3)]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_and_shape_are_kept(dtype):
    image = random(1, 1, 1, 3).to(dtype)
    for function in (rgb_to_lab, lab_to_rgb, fit_gamut, fitted_rgb):
        assert function(image).dtype == dtype and function(image).shape == image.shape
    assert luminance(image).dtype == dtype and luminance(image).shape == (1, 1, 1)
    assert luminance_to_rgb(luminance(image)).dtype == dtype


def test_autocast_does_not_round_the_matrix():
    image = random(1, 9, 9, 3)
    plain = rgb_to_lab(image)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(rgb_to_lab(image), plain)
        assert (lab_to_rgb(plain) - image).abs().max() < 2e-5


@pytest.mark.parametrize(
    "picture",
    [
        torch.zeros(4, 4, 3),
        torch.zeros(1, 3, 4, 4),
        torch.zeros(1, 0, 4, 3),
        torch.zeros(1, 4, 4, 3, dtype=torch.uint8),
    ],
)
@pytest.mark.parametrize("function", [rgb_to_lab, lab_to_rgb, luminance, fit_gamut, fitted_rgb])
def test_other_shapes_are_refused(function, picture):
    with pytest.raises(ValueError, match=r"found .*expected"):
        function(picture)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_accelerator_gives_the_numbers_of_the_cpu():
    image = random(2, 9, 7, 3)
    for function in (rgb_to_lab, luminance, lambda x: fit_gamut(x * 200 - 100)):
        found = function(image.cuda())
        assert found.is_cuda and torch.equal(found.cpu(), function(image))
