"""Luminance pulled in latent space changes nothing else."""

import pytest
import torch

from comfyui_exemplar.diffusion.luminance import LUMA, luma_direction, pull_luminance

FACTORS = [[0.35, 0.23, 0.31], [0.33, 0.50, 0.18], [-0.28, 0.19, 0.27], [-0.21, -0.19, -0.72]]
DIRECTION = luma_direction(FACTORS)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def luma(latent):
    """By way of RGB, as a preview is made."""
    rgb = torch.einsum("bchw,cr->bhwr", latent, torch.tensor(FACTORS))
    return 0.299 * rgb[..., 0] + 0.587 * rgb[..., 1] + 0.114 * rgb[..., 2]


def test_direction():
    for row, found in zip(FACTORS, DIRECTION.tolist(), strict=True):
        assert found == pytest.approx(sum(a * b for a, b in zip(row, LUMA, strict=True)), abs=1e-6)


@pytest.mark.parametrize("batch", [1, 3])
def test_the_pulled_latent_has_the_target_luma(batch):
    latent, gray = random(3, 4, 5, 6), random(batch, 4, 5, 6, seed=1)
    pulled = pull_luminance(latent, gray, DIRECTION)
    torch.testing.assert_close(luma(pulled), luma(gray).expand(3, -1, -1), atol=1e-5, rtol=0)
    assert (luma(latent) - luma(gray)).abs().max() > 0.1


def test_the_rest_stays():
    latent, gray = random(2, 4, 5, 6), random(2, 4, 5, 6, seed=1)
    moved = pull_luminance(latent, gray, DIRECTION) - latent
    unit = (DIRECTION / DIRECTION.norm()).view(1, 4, 1, 1)
    along = (moved * unit).sum(1, keepdim=True) * unit
    torch.testing.assert_close(moved, along, atol=1e-6, rtol=0)
    assert moved.abs().max() > 0.1


def test_strength():
    latent, gray = random(2, 4, 5, 6), random(1, 4, 5, 6, seed=1)
    assert pull_luminance(latent, gray, DIRECTION, strength=0) is latent
    half, full = (pull_luminance(latent, gray, DIRECTION, s) for s in (0.5, 1.0))
    torch.testing.assert_close(half, (latent + full) / 2)


def test_dtype_is_the_latent_s():
    pulled = pull_luminance(random(1, 4, 5, 6).half(), random(1, 4, 5, 6, seed=1), DIRECTION)
    assert pulled.dtype == torch.float16
