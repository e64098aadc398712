"""Learning through a diffusers UNet where memory is short: it computes activations again, by itself."""

import pytest
import torch

from comfyui_exemplar.attention.bank import FeatureBank
from comfyui_exemplar.demo import model_path
from comfyui_exemplar.diffusion.concept import ConceptOptions
from comfyui_exemplar.diffusion.inversion import Inversion
from comfyui_exemplar.diffusion.learning import SPARED
from comfyui_exemplar.diffusion.pivot import PivotOptions
from comfyui_exemplar.diffusion.schedule import inversion_plan
from comfyui_exemplar.hosts.diffusers import gradients
from comfyui_exemplar.hosts.diffusers.checkpoint import load_standalone
from comfyui_exemplar.hosts.diffusers.gradients import DifferentiableUNet
from comfyui_exemplar.hosts.diffusers.vct import DiffusersTranslator
from comfyui_exemplar.hosts.diffusers.vct_text import load_concept_text
from comfyui_exemplar.pipelines.vct_concept import LearningSettings

SHAPE = (2, 4, 16, 24)
FEW = LearningSettings(word="red", vectors=2, concept=ConceptOptions(updates=2, accumulation=2))


@pytest.fixture
def model():
    return load_standalone(model_path())


def kept(unet, model):
    """Bytes that autograd saves in a call, weights apart."""
    own, storages = {weight.untyped_storage().data_ptr() for weight in model.unet.parameters()}, {}

    def pack(saved):
        storage = saved.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage
        return saved

    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        answer = unet(x, 2.0, model.context.clone().requires_grad_(True))
    assert answer.requires_grad
    return sum(storage.nbytes() for storage in storages.values())


def estimate(monkeypatch, model):
    """The least free memory with which a row's activations are kept."""
    compared, original = [], gradients.kept_bytes

    def noted(*args):
        compared.append(original(*args))
        return compared[-1]

    monkeypatch.setattr(gradients, "kept_bytes", noted)
    DifferentiableUNet(model, shape=SHAPE)
    return compared[0]


def test_the_estimate_is_what_is_kept(monkeypatch, model):
    one = kept(DifferentiableUNet(model), model) / SHAPE[0]
    assert 0.95 * one < estimate(monkeypatch, model) < 1.4 * one


def test_it_turns_itself_on(monkeypatch, model, caplog):
    least = estimate(monkeypatch, model)
    for free, on in ((None, False), (least, False), (least - 1, True)):
        monkeypatch.setattr(gradients, "free_memory", lambda device, free=free: free)
        assert DifferentiableUNet(model, shape=SHAPE).checkpointing is on
    assert caplog.messages == [SPARED]
    assert not DifferentiableUNet(model, shape=SHAPE).spare()  # and so it stays
    assert caplog.messages == [SPARED]


def test_what_runs_out_of_memory(monkeypatch, caplog):
    """It goes on with less, says so once, and comes to the same."""
    latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    text = load_concept_text(model_path(), "cpu")

    def learned():
        host = DiffusersTranslator(load_standalone(model_path()), text=text)
        concept = host.learn(latents, FEW, lambda _: None)
        plan = inversion_plan(host.sigma_table, 2, 2)
        inversion = Inversion(plan, host.invert(latents, plan, None, 0), FeatureBank(), host.fingerprint, host.layers)
        return concept.prompt, host.find_pivots(inversion, PivotOptions(iterations=1), lambda _: None).contexts

    expected, call = learned(), DifferentiableUNet.__call__

    def short(unet, *args):
        if torch.is_grad_enabled() and not unet.checkpointing:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return call(unet, *args)

    monkeypatch.setattr(DifferentiableUNet, "__call__", short)
    found = learned()
    assert caplog.messages.count(SPARED) == 1
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-5, rtol=0)
