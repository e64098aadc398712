"""The standalone host on a device beside the CPU, with and without float64."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from comfyui_exemplar.attention.capture import Capture, CaptureSpec, CaptureTarget
from comfyui_exemplar.attention.instances import InstanceSettings
from comfyui_exemplar.demo import lcad_path, model_path
from comfyui_exemplar.diffusion.inversion import round_trip_error
from comfyui_exemplar.diffusion.schedule import (
    ancestral_sigmas,
    fractional_timestep,
    inversion_plan,
    sigmas_from_alphas,
)
from comfyui_exemplar.hosts.diffusers import host as hosts
from comfyui_exemplar.hosts.diffusers.checkpoint import load_standalone
from comfyui_exemplar.hosts.diffusers.host import DiffusersHost
from comfyui_exemplar.hosts.diffusers.lcad import load_lcad
from comfyui_exemplar.hosts.diffusers.vct import DiffusersTranslator
from comfyui_exemplar.hosts.diffusers.vct_text import load_concept_text
from comfyui_exemplar.pipelines.exemplar import colorize
from comfyui_exemplar.pipelines.exemplar_settings import ColorizeSettings
from comfyui_exemplar.pipelines.lcad import LCADSettings, describe
from comfyui_exemplar.pipelines.recommended import read_recommended
from comfyui_exemplar.pipelines.vct import TranslateSettings, learn, translate

from ..fixtures.pretended_gpu import DEVICE, DOWNLOAD, ITEM, MEMORY, SIZE, UPLOAD, PretendedGPU, from_gpu, to_gpu

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


GRAY = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))
REFERENCE = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(2))
LEFT = torch.zeros(1, 64, 64)
LEFT[..., :32] = 1
REGIONS = [("a green apple", LEFT), ("a yellow bell", 1 - LEFT)]


def colorized(device):
    """A colorization on a device: its UNet, and what runs it."""
    model = load_standalone(model_path(), device=device)
    settings = ColorizeSettings(resolution=64, depth=3, steps=10, passes=1)
    return model.unet, lambda: colorize(DiffusersHost(model), GRAY, REFERENCE, settings).images


def described(device, regions=(), **drawing):
    """The same of colors from words."""
    host, settings = load_lcad(lcad_path(), device=device), LCADSettings(steps=4, resolution=64)

    def run():
        drawn = InstanceSettings(**drawing)
        return describe(host, GRAY, "a green apple, a yellow bell", settings, regions=regions, drawing=drawn)

    return host.model.unet, run


FLOWS = {
    "colorize": colorized,
    "words": described,
    "words in masks": lambda device: described(device, REGIONS),
    "words in masks, official": lambda device: described(device, REGIONS, step="official", schedule="official"),
}


@pytest.mark.parametrize("flow, double", [*((flow, True) for flow in FLOWS), ("colorize", False), ("words", False)])
def test_what_a_flow_waits_for(flow, double):
    """One read of the noise level a call of the UNet at most; nothing is sent in a steady step. The CPU's pictures."""
    expected = FLOWS[flow]("cpu")[1]()
    with PretendedGPU(double) as gpu:
        unet, run = FLOWS[flow](DEVICE)
        calls = []
        unet.register_forward_pre_hook(lambda *_: calls.append(len(gpu.events)))
        gpu.events.clear()
        found = run()
    # attention is another kernel of torch there; guidance, and gamut mapping at single pixels, enlarge its rounding
    apart = (from_gpu(found).cpu() - expected).abs()
    assert float(apart.mean()) < 1e-5 and float(apart.max()) < 5e-3
    assert not any(event.kind == SIZE for event in gpu.events)
    between = [Counter(event.kind for event in gpu.events[a:b]) for a, b in pairwise(calls)]
    assert len(between) >= 3 and max(events[ITEM] for events in between) <= 1
    # a run's first step sends its constants, and pictures are sent between a climb and a way back; its last two don't
    assert all(not events[UPLOAD] and not events[DOWNLOAD] for events in between[-2:]), between


@pytest.mark.parametrize(
    ("more", "kept_on"), [(0, DEVICE), (-4, torch.device("cpu")), (None, DEVICE)], ids=["room", "none", "nobody knows"]
)
def test_features_are_on_the_device_if_there_is_room(more, kept_on, monkeypatch):
    """Four times as much has to be free; else one level of them is there at a time."""
    with PretendedGPU():
        host = DiffusersHost(load_standalone(model_path(), device=DEVICE))
    plan, latent = inversion_plan(host.sigma_table, 10, 3, "consistent"), torch.randn(2, 4, 16, 16)
    info = host.layers[-1]
    needed = 3 * 2 * 2 * 4 * info.channels * 16 * 16 // info.downscale**2  # levels, pictures, letters, bytes
    monkeypatch.setattr(hosts, "free_memory", lambda device: None if more is None else 4 * needed + more)
    capture = Capture([CaptureTarget(CaptureSpec({info.layer: "qk"}))], plan.kept_sigmas)
    with PretendedGPU() as gpu:
        before = MEMORY.now
        host.invert(latent, plan, capture)
        sent = sum(event.size for event in gpu.events if event.kind == DOWNLOAD and "capture" in event.place)
    bank = capture.targets[0].bank
    assert bank.device == kept_on and bank.nbytes == needed
    assert sent == (0 if kept_on == DEVICE else needed)
    assert MEMORY.now - before == (needed if kept_on == DEVICE else 0)


def test_a_step_of_fusion():
    """Of a translation, once its start is there: one read a call, and nothing is sent, the pivots are there."""
    with PretendedGPU() as gpu:
        model = load_standalone(model_path(), device=DEVICE)
        host = DiffusersTranslator(model, text=load_concept_text(model_path(), DEVICE))
        concept = host.of_vectors(torch.randn(2, 128, generator=torch.Generator().manual_seed(0)))
        settings = replace(FEW, steps=4, pivot_iterations=1)
        calls = []
        model.unet.register_forward_pre_hook(lambda *_: calls.append(len(gpu.events)))
        translate(host, GRAY, concept, settings)
    last = Counter(event.kind for event in gpu.events[calls[-2] : calls[-1]])
    assert last[ITEM] <= 1 and not last[UPLOAD] and not last[SIZE]


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
