"""What an inversion says of where a sampling starts, and of inversions that stand in each other's place."""

from dataclasses import replace

import pytest
import torch

from comfyui_exemplar.attention.bank import FeatureBank
from comfyui_exemplar.diffusion.inversion import Inversion, latent_chroma, role_warnings, start_warnings
from comfyui_exemplar.diffusion.schedule import inversion_plan

PLAN = inversion_plan(torch.linspace(0.03, 14, 1000), 20, 4)


def inverted(seed=0, chroma=None):
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randn(1, 2, 4, 6, 6, generator=generator)
    noise = torch.randn(1, 2, 4, 6, 6, generator=generator)
    levels = torch.tensor(PLAN.levels).view(-1, 1, 1, 1, 1)
    return Inversion(PLAN, (clean + levels * noise) / (1 + levels**2).sqrt(), FeatureBank(), "m", (), chroma)


def matched(latents):
    """Other statistics, as from Latent Statistics Match."""
    return latents * torch.tensor([0.8, 1.1, 0.9, 1.2]).view(1, 4, 1, 1) + 0.3


class TestStart:
    def test_noised_latents_without_noise_are_right(self):
        inversion = inverted()
        for latents in (inversion.noised(), matched(inversion.noised()), inversion.noised().repeat(3, 1, 1, 1)):
            assert start_warnings(inversion, latents, False) == []

    def test_latents_of_another_picture_or_of_none(self):
        own, top = inverted(), PLAN.sigmas[0]
        for latents in (inverted(5).noised(), inverted(5).trajectory[0], torch.zeros(2, 4, 6, 6)):
            (text,) = start_warnings(own, latents, False, top)
            assert "none of the input's" in text
            # a sampling that goes on begins lower; its latents have other colors by then
            assert start_warnings(own, latents, False, 0.5 * top) == []
        colored = own.noised()
        colored[:, 1:] = inverted(5).noised()[:, 1:]
        for latents in (own.noised(), matched(own.noised()), colored, own.noised().repeat(2, 1, 1, 1)):
            assert start_warnings(own, latents, False, top) == []

    @pytest.mark.parametrize("adds_noise", [True, False])
    def test_clean_latents(self, adds_noise):
        inversion = inverted()
        (text,) = start_warnings(inversion, inversion.trajectory[0], adds_noise)
        assert "is the clean picture" in text

    def test_noise_on_top_of_noise(self):
        inversion = inverted()
        (text,) = start_warnings(inversion, inversion.noised(), True)
        assert "noised already" in text

    def test_another_start_is_the_users_own(self):
        assert start_warnings(inverted(), torch.zeros(2, 4, 6, 6), True) == []


class TestRoles:
    def test_in_their_places(self):
        assert role_warnings(inverted(1, 0.1), inverted(2, 0.9), inverted(3, 0.1)) == []
        assert role_warnings(inverted(1), inverted(2), inverted(3)) == [], "no map to color, nothing to say"
        assert role_warnings(inverted(1, 0.1), inverted(2, 0.9), inverted(1, 0.1)) == [], "a picture's own colors"

    def test_input_and_gray_exchanged(self):
        reference = inverted(2, 0.9)
        colorless = replace(reference, trajectory=reference.trajectory * 0.8, chroma=0.1)
        assert role_warnings(inverted(1, 0.1), reference, colorless) == []
        (text,) = role_warnings(colorless, reference, inverted(1, 0.1))
        assert "exchanged with the input's" in text

    def test_reference_and_gray_reference_exchanged(self):
        (text,) = role_warnings(inverted(1, 0.1), inverted(2, 0.1), inverted(3, 0.9))
        assert text == "reference_inversion has less color than gray_inversion; they seem to be exchanged."

    def test_input_and_reference_exchanged(self):
        (text,) = role_warnings(inverted(1, 0.9), inverted(2, 0.11), inverted(3, 0.1))
        assert text == "input_inversion has more color than reference_inversion; they seem to be exchanged."

    def test_one_picture_twice(self):
        (text,) = role_warnings(inverted(1, 0.1), inverted(2, 0.9), inverted(2, 0.9))
        assert "reference_inversion and gray_inversion are of the same picture" in text
        (text,) = role_warnings(inverted(2, 0.9), inverted(2, 0.9), inverted(3, 0.1))
        assert "input_inversion and reference_inversion are of the same picture" in text


def test_chroma_of_latents():
    """A map that copies three channels: the spread between them, whatever they share."""
    factors = [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [5.0, 5.0, 5.0]]
    gray = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(1)).expand(1, 4, 8, 8)
    assert latent_chroma(gray, factors, None) == pytest.approx(0, abs=1e-6)
    red = gray + torch.tensor([3.0, 0, 0, 0]).view(1, 4, 1, 1)
    assert latent_chroma(red, factors, None) == pytest.approx((2.0**2 / 3 + 2 * 1.0**2 / 3) ** 0.5, rel=1e-5)
    assert latent_chroma(gray, factors, [3.0, 0.0, 0.0]) == pytest.approx(2**0.5, rel=1e-5)


def test_taking_some_pictures_keeps_the_rest():
    inversion = replace(inverted(), chroma=0.5)
    assert inversion.take(range(1, 2)).chroma == 0.5 and inversion.take(range(1, 2)).pictures == 1
