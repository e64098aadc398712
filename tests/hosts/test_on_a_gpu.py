"""The standalone host on a device beside the CPU, with and without float64."""

import pytest
import torch

from comfyui_exemplar.demo import model_path
from comfyui_exemplar.diffusion.inversion import round_trip_error
from comfyui_exemplar.diffusion.schedule import (
    ancestral_sigmas,
    fractional_timestep,
    inversion_plan,
    sigmas_from_alphas,
)
from comfyui_exemplar.files.headers import read_recommended
from comfyui_exemplar.hosts.diffusers.checkpoint import load_standalone
from comfyui_exemplar.hosts.diffusers.vct import DiffusersTranslator
from comfyui_exemplar.hosts.diffusers.vct_text import load_concept_text
from comfyui_exemplar.pipelines.vct import TranslateSettings, learn, translate

from ..fixtures.pretended_gpu import DEVICE, PretendedGPU, from_gpu, to_gpu

FEW = TranslateSettings.resolve(
    read_recommended(model_path())["vct"], steps=2, resolution=32, updates=1, vectors=2, pivot_iterations=1, word="red"
)


def translated(device):
    """A whole translation on a device: (pictures, errors of their pivots)."""
    host = DiffusersTranslator(
        load_standalone(model_path(), device=device), text=load_concept_text(model_path(), device)
    )
    pictures = torch.rand(1, 40, 48, 3, generator=torch.Generator().manual_seed(1))
    return translate(host, pictures, learn(host, pictures, FEW), FEW)


@pytest.fixture(scope="module")
def on_cpu():
    return translated("cpu")


@pytest.mark.parametrize("double", [True, False], ids=["CUDA", "MPS"])
def test_a_translation(on_cpu, double):
    with PretendedGPU(double):
        found = translated(DEVICE)
    assert torch.allclose(from_gpu(found.images).cpu(), on_cpu.images, atol=1e-4, rtol=0)
    assert found.reconstruction_errors == pytest.approx(on_cpu.reconstruction_errors, rel=1e-3)


class TestWithoutDouble:
    """What is computed in float64 where that is to be had."""

    @pytest.fixture
    def table(self):
        return sigmas_from_alphas(torch.linspace(0.9991, 0.0047, 1000))

    def test_levels(self, table):
        with PretendedGPU(double=False) as gpu:
            moved = to_gpu(table)
            assert torch.equal(sigmas_from_alphas(to_gpu(torch.linspace(0.9991, 0.0047, 1000))), table)
            assert inversion_plan(moved, 10, 5) == inversion_plan(table, 10, 5)
            assert torch.equal(from_gpu(ancestral_sigmas(moved, 7)), ancestral_sigmas(table, 7))
        assert [event.kind for event in gpu.events if event.ours].count("item") == 0

    def test_timesteps(self, table):
        sigmas = torch.tensor([0.01, 0.04, 0.5, 1.7, 13.0, 20.0])
        with PretendedGPU(double=False) as gpu:
            found = fractional_timestep(to_gpu(table), to_gpu(sigmas))
        assert not gpu.events
        assert float((from_gpu(found) - fractional_timestep(table, sigmas)).abs().max()) < 1e-2

    def test_an_error(self):
        one, other = (torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
        with PretendedGPU(double=False):
            assert round_trip_error(to_gpu(one), to_gpu(other)) == round_trip_error(one, other)
