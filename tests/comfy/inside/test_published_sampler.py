"""Published Sampler: the levels, what the loop is started from and what it hands back, and wrong models.

That whole runs give the published numbers is in ``tests/parity/test_deadiff_unet.py``.
"""

import comfy.samplers
import pytest
import torch

from comfyui_exemplar.hosts.comfy.model import sigma_table

from . import models


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def model(request):
    return models.tiny(request.param)


def given_noise(model, sampler, sigmas):
    """(first latent over unit noise, result over the last latent) of a sampler run from an empty latent by ComfyUI."""
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    sampling = model.get_model_object("model_sampling")
    nothing = Nothing(sampling)
    largest = comfy.samplers.KSAMPLER(None).max_denoise(nothing, sigmas)
    start = sampling.noise_scaling(sigmas[0], noise.clone(), torch.zeros_like(noise), largest)
    end = sampler.sampler_function(nothing, start, sigmas, {}, None, True)
    return float((nothing.seen[0] / noise).mean()), end, noise


class Nothing:
    """A denoiser to which everything is noise, with what ComfyUI's sampling asks a model for."""

    def __init__(self, sampling):
        self.inner_model = self
        self.model_sampling = sampling
        self.seen = []

    def __call__(self, x, sigma, **_):
        self.seen.append(x.clone())
        return torch.zeros_like(x)


class TestDDIM:
    @pytest.mark.parametrize(("steps", "length"), [(4, 4), (50, 50), (30, 31), (500, 500)])
    def test_levels(self, nodes, model, steps, length):
        _, sigmas = nodes("ExemplarPublishedSampler", model=model, sampler_name="ddim", steps=steps)
        table = sigma_table(model)
        assert len(sigmas) == length + 1 and sigmas[-1] == table[0] and sigmas[-2] == table[1]
        assert sigmas[0] == table[1 + (1000 // steps) * (length - 1)]

    @pytest.mark.parametrize("steps", [4, 500])
    def test_it_starts_from_unit_variance_and_reads_the_last_latent_as_clean(self, nodes, model, steps):
        """500 steps begin at the largest level, where ComfyUI itself scales noise in another way."""
        sampler, sigmas = nodes("ExemplarPublishedSampler", model=model, sampler_name="ddim", steps=steps)
        first, end, noise = given_noise(model, sampler, sigmas)
        assert first == pytest.approx(float((1 + sigmas[0] ** 2).sqrt()), rel=1e-5)
        # a denoiser of nothing leaves sigma times the noise direction: x shrinks with sigma
        last = first * float(sigmas[-1] / sigmas[0]) / float((1 + sigmas[-1] ** 2).sqrt())
        torch.testing.assert_close(end, last * noise, rtol=1e-4, atol=1e-5)


def test_euler_ancestral_starts_as_large_as_sigma_and_ends_at_zero(nodes, model):
    sampler, sigmas = nodes("ExemplarPublishedSampler", model=model, sampler_name="euler_ancestral", steps=3)
    table = sigma_table(model)
    assert len(sigmas) == 4 and sigmas[-1] == 0
    torch.testing.assert_close(sigmas[[0, 2]], table[[-1, 0]])
    torch.testing.assert_close(sigmas[1].log(), (table[499].log() + table[500].log()) / 2)
    assert given_noise(model, sampler, sigmas)[0] == pytest.approx(float(sigmas[0]), rel=1e-5)


class Flux:
    """A MODEL that is no UNet."""

    model = "flux"

    def get_model_object(self, name):
        return object()


def test_another_family(nodes):
    with pytest.raises(ValueError, match=r"Published Sampler: model: found .*, expected a Stable Diffusion"):
        nodes("ExemplarPublishedSampler", model=Flux(), sampler_name="ddim", steps=4)


def test_few_noise_levels(nodes, model):
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    (lcm,) = ModelSamplingDiscrete().patch(model, "lcm", False)
    with pytest.raises(ValueError, match=r"steps is 50.*50 noise levels only.*lcm"):
        nodes("ExemplarPublishedSampler", model=lcm, sampler_name="ddim", steps=50)
