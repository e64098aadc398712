"""Mean and deviation transfer."""

import pytest
import torch

from comfyui_exemplar.color import adain, desaturate, match_chroma_statistics, match_mean_std, rgb_to_lab


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_chroma_takes_the_references_statistics():
    chroma, reference = normal(3, 9, 7, 2) * 12 + 3, normal(3, 5, 11, 2, seed=1) * 30 - 8
    for other in (reference, reference[:1]):
        matched = match_chroma_statistics(chroma, other, 1.0)
        assert matched.shape == chroma.shape
        mean, expected = matched.mean((1, 2)), other.mean((1, 2)).expand(3, 2)
        assert torch.allclose(mean, expected, atol=1e-4)
        std, expected = matched.std((1, 2), correction=0), other.std((1, 2), correction=0).expand(3, 2)
        assert torch.allclose(std, expected, atol=1e-4)


def test_adain_uses_unbiased_deviation_per_picture():
    latent, style = normal(2, 4, 3, 5), normal(2, 4, 2, 2, seed=1) * 3 + 1
    out = adain(latent, style)
    for index in range(2):
        for channel in range(4):
            z, s = latent[index, channel].double(), style[index, channel].double()
            expected = (z - z.mean()) / z.std(correction=1) * s.std(correction=1) + s.mean()
            assert torch.allclose(out[index, channel].double(), expected, atol=1e-5)
    assert torch.equal(out[1:], adain(latent[1:], style[1:]))
    assert torch.equal(adain(latent, style[:1])[1:], adain(latent[1:], style[:1]))
    assert (out - match_mean_std(latent, style, (2, 3))).abs().max() > 1e-2


def test_strength():
    latent, style = normal(2, 4, 6, 6), normal(1, 4, 6, 6, seed=1) + 5
    assert adain(latent, style, 0.0) is latent
    chroma = normal(1, 3, 3, 2)
    assert match_chroma_statistics(chroma, chroma * 2, 0) is chroma
    halfway = (latent + adain(latent, style)) / 2
    assert torch.allclose(adain(latent, style, 0.5), halfway, atol=1e-5)


@pytest.mark.parametrize("level", [0.0, 0.1, -7.3, 1e3])
def test_constant_channel_only_moves_its_mean(level):
    latent = normal(1, 4, 8, 8)
    latent[:, 2] = level
    style = normal(1, 4, 8, 8, seed=1) * 4 + 2
    out = adain(latent, style)
    assert torch.isfinite(out).all()
    assert torch.allclose(out[:, 2], style[:, 2].mean().expand(1, 8, 8), atol=2e-3)


def test_single_values_and_constant_reference():
    out = adain(normal(1, 4, 1, 1), normal(1, 4, 1, 1, seed=1))
    assert torch.allclose(out, normal(1, 4, 1, 1, seed=1))
    flat = match_chroma_statistics(normal(1, 4, 4, 2), torch.full((1, 1, 1, 2), 6.0))
    assert torch.allclose(flat, torch.full((1, 4, 4, 2), 6.0), atol=1e-5)


def test_rounding_noise_of_a_gray_picture_is_not_stretched_into_color():
    gray = desaturate(torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(0)))
    chroma = rgb_to_lab(gray)[..., 1:]
    assert chroma.std() > 0
    matched = match_chroma_statistics(chroma, normal(1, 8, 8, 2) * 30)
    assert matched.std((1, 2)).max() < 0.01


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept(dtype):
    latent = normal(1, 4, 5, 5).to(dtype)
    out = adain(latent, normal(1, 4, 5, 5, seed=1).to(dtype))
    assert out.dtype == dtype
    expected = adain(latent.double(), normal(1, 4, 5, 5, seed=1).to(dtype).double())
    assert (out.double() - expected).abs().max() < 10 * torch.finfo(dtype).eps


def test_more_spatial_axes():
    latent = normal(1, 4, 3, 5, 5)
    out = adain(latent, latent * 2 + 1)
    assert torch.allclose(out, latent * 2 + 1, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 4, 5, 5), (1, 3, 5, 5), (4, 5, 5)])
def test_what_does_not_fit_is_refused(shape):
    with pytest.raises(ValueError, match=r"found .*expected"):
        adain(normal(3, 4, 5, 5), normal(*shape))
    with pytest.raises(ValueError, match=r"found .*expected"):
        adain(normal(3, 4), normal(3, 4))
