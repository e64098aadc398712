"""What learning through a MODEL and a CLIP takes on the device: their weights once, and nothing afterwards."""

import gc

import comfy.float
import comfy.lora
import comfy.model_management as mm
import folder_paths
import pytest
import torch

from comfyui_exemplar.hosts.comfy.borrowed import BorrowedNetworks, gradients
from comfyui_exemplar.hosts.comfy.embedded import load_demo
from comfyui_exemplar.hosts.comfy.gradients import DifferentiableUNet, clone_for_autograd, working_bytes

from ....fixtures.pretended_gpu import DEVICE, MEMORY, from_gpu
from ..models import FlatVAE, prompt, text_encoder, tiny
from ..sampling import difference, run
from .laps import noise

#: Beside weights: schedules and other small buffers.
SMALL = 64 * 1024


@pytest.fixture(autouse=True)
def alone(gpu, monkeypatch, tmp_path):
    """Nothing else on the device, and a folder for embeddings."""
    monkeypatch.setattr(mm, "current_loaded_models", [])
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "embeddings", ([str(tmp_path)], {".safetensors"}))
    gc.collect()


def on_device(patcher):
    patcher.load_device = DEVICE
    return patcher


def unload():
    mm.free_memory(1e30, DEVICE)


def lora(patcher, scale=0.05):
    """A clone with a patch on every matrix."""
    patched, chance = patcher.clone(), torch.Generator().manual_seed(5)
    state = patcher.model.state_dict()
    names = [name for name, weight in state.items() if name.endswith("weight") and weight.ndim == 2]
    patched.add_patches({n: ("diff", (scale * torch.randn(state[n].shape, generator=chance),)) for n in names})
    return patched


def as_the_core_patches(patcher):
    """Name -> weight with its patches, computed from the weights as they wait on the CPU."""
    made = {}
    for name, weight in patcher.model.named_parameters():
        weight = patcher.backup[name].weight if name in patcher.backup else weight
        weight = from_gpu(weight).cpu()
        if name in patcher.patches:
            full = comfy.lora.calculate_weight(patcher.patches[name], weight.float().clone(), name)
            weight = comfy.float.stochastic_rounding(full, weight.dtype, seed=comfy.utils.string_to_seed(name))
        made[name] = weight
    return made


def test_weights_are_there_once(gpu):
    model = on_device(tiny("sd1"))
    before, size = MEMORY.now, model.model_size()
    MEMORY.reset()
    with gradients(), BorrowedNetworks() as networks:
        module = networks.add(model)
        assert size <= MEMORY.now - before <= MEMORY.peak - before < size + SMALL
        assert not any(w.is_inference() or w.requires_grad or w.device != DEVICE for w in module.parameters())
        (loaded,) = mm.current_loaded_models  # what the host counts is what there is
        assert loaded.model_loaded_memory() == size
    del module, networks
    unload()
    gc.collect()
    assert MEMORY.now == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_patches_are_in_them(gpu, dtype):
    model = tiny("sd1")
    if dtype != torch.float8_e4m3fn:  # which rounds by numbers drawn on the device
        on_device(model)
    model.model.diffusion_model.to(dtype)
    patched = lora(model)
    expected = as_the_core_patches(patched)
    with gradients():
        module = BorrowedNetworks().add(patched)
    for name, weight in module.named_parameters():
        assert weight.dtype == expected[name].dtype == dtype
        assert torch.equal(from_gpu(weight).float(), expected[name].float()), name


def test_those_of_a_text_encoder_too(gpu):
    clip = text_encoder("sdxl-small")
    patched = on_device(lora(clip.patcher))
    expected = as_the_core_patches(patched)
    with gradients():
        module = BorrowedNetworks().add(patched)
    assert all(torch.equal(from_gpu(weight), expected[name]) for name, weight in module.named_parameters())


@pytest.mark.parametrize("state", [mm.VRAMState.NO_VRAM, mm.VRAMState.LOW_VRAM, mm.VRAMState.HIGH_VRAM])
def test_however_little_the_host_loads(gpu, monkeypatch, state):
    monkeypatch.setattr(mm, "vram_state", state)
    model = on_device(tiny("sd1"))
    if state == mm.VRAMState.HIGH_VRAM:
        model.offload_device = DEVICE
    before, size = MEMORY.now, model.model_size()
    MEMORY.reset()
    with gradients(), BorrowedNetworks() as networks:
        module = networks.add(model)
        assert all(weight.device == DEVICE for weight in module.parameters())
        assert MEMORY.peak - before < size + SMALL


class Pictures:
    """A VAE that has the host unload everything, as one does that needs the room."""

    def __init__(self):
        self.vae, self.lived = FlatVAE(), []

    def __getattr__(self, name):
        return getattr(self.vae, name)

    def decode(self, latent):
        unload()
        gc.collect()
        self.lived.append(MEMORY.now)
        return self.vae.decode(from_gpu(latent))


def learn(nodes, model, clip, vae, scene, **settings):
    inputs = {"model": model, "clip": clip, "vae": vae, "reference": scene[1], "name": "thing", "word": "flower"}
    few = {"vectors": 2, "updates": 3, "resolution": 64, "accumulation": 2, "sample_every": 0}
    return nodes("ExemplarConceptInversion", **inputs, **{**few, "when_the_file_exists": "start over", **settings})


def test_a_vae_gets_the_room_while_it_draws(gpu, nodes, scene, monkeypatch):
    monkeypatch.setattr("comfyui_exemplar.hosts.comfy.vct_concept.SAMPLE_STEPS", 2)
    model, clip, vae = on_device(tiny("sd1")), text_encoder("sd1"), Pictures()
    on_device(clip.patcher)
    before = MEMORY.now
    drawn = learn(nodes, model, clip, vae, scene, sample_every=1)
    assert len(vae.lived) == 3 and max(vae.lived) - before < 1024**2 < model.model_size() / 4
    plain = learn(nodes, model, clip, FlatVAEOnTheCPU(), scene)
    assert difference(from_gpu(drawn[0][0][0]), from_gpu(plain[0][0][0])) == 0


class FlatVAEOnTheCPU(FlatVAE):
    def decode(self, latent):
        return super().decode(from_gpu(latent))


def test_nodes_leave_nothing_and_change_nothing(gpu, nodes, scene):
    model, clip, _ = load_demo()
    empty = clip.encode_from_tokens_scheduled(clip.tokenize(""))
    latent, sigmas = noise(1, 4, 16, 16), torch.tensor([2.0, 1.0, 0.0])
    first = run(model, empty, latent, sigmas)
    inversion, *_ = nodes("ExemplarDDIMInversion", model=model, conditioning=empty, latent=latent, depth=2, steps=2)
    gc.collect()
    before = MEMORY.now
    inputs = {"model": model, "conditioning": empty, "inversion": inversion, "cfg": 4.0, "iterations": 2}
    MEMORY.reset()
    found = nodes("ExemplarPivotInversion", **inputs)
    peak = MEMORY.peak - before
    del found
    gc.collect()
    assert MEMORY.now == before  # the loaded weights are there as they were
    assert peak < working_bytes(model, latent["samples"].shape)
    assert difference(from_gpu(run(model, empty, latent, sigmas)), from_gpu(first)) == 0


@pytest.mark.parametrize("error", [mm.InterruptProcessingException, RuntimeError])
def test_what_ends_it_lets_go(gpu, nodes, monkeypatch, error):
    model = on_device(tiny("sd1"))
    inversion, *_ = nodes(
        "ExemplarDDIMInversion", model=model, conditioning=prompt("sd1"), latent=noise(1, 4, 8, 8), depth=2, steps=2
    )
    gc.collect()
    before, asked = MEMORY.now, []

    def stop():
        asked.append(None)
        if len(asked) == 3:
            raise error

    with monkeypatch.context() as patch, pytest.raises(error) as kept:
        patch.setattr(mm, "throw_exception_if_processing_interrupted", stop)
        nodes("ExemplarPivotInversion", model=model, conditioning=prompt("sd1"), inversion=inversion, iterations=2)
    del kept
    unload()
    gc.collect()
    assert before - model.model_size() <= MEMORY.now < before - model.model_size() + SMALL


class Asked:
    """What the host is asked to make room for."""

    def __init__(self, monkeypatch, free):
        self.bytes, load = [], mm.load_models_gpu
        monkeypatch.setattr(
            mm, "get_free_memory", lambda dev=None, *both, **named: (free,) * 2 if both or named else free
        )

        def loading(models, memory_required=0, **named):
            self.bytes.append(memory_required)
            return load(models, memory_required=memory_required, **named)

        monkeypatch.setattr(mm, "load_models_gpu", loading)


def test_room_is_asked_for_before(gpu, monkeypatch):
    model, shape = on_device(tiny("sd1")), (2, 4, 8, 8)
    asked = Asked(monkeypatch, 8 * 1024**3)
    with gradients():
        unet = DifferentiableUNet(model, shape=shape)
    assert asked.bytes == [working_bytes(model, shape)] and not unet.checkpointing
    assert asked.bytes[0] > model.memory_required(list(shape))


def test_activations_are_computed_again_where_they_do_not_fit(gpu, monkeypatch, caplog):
    model, shape = on_device(tiny("sd1")), (2, 4, 8, 8)
    one = working_bytes(model, (1, *shape[1:]))
    for free, switched in ((one, False), (one - 1, True)):
        caplog.clear()
        with monkeypatch.context() as patch, gradients():
            Asked(patch, free)
            assert DifferentiableUNet(model, shape=shape).checkpointing == switched
        assert ("gradient_checkpointing turns itself on" in caplog.text) == switched


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_less_lives_where_they_are_computed_again(gpu, family):
    model, shape = on_device(tiny(family)), (1, 4, 16, 16)
    kept, made = [], []
    for checkpointing in (False, True):
        with gradients():
            unet = DifferentiableUNet(model, prompt(family)[0][1], checkpointing)
            context = clone_for_autograd(prompt(family)[0][0], DEVICE).requires_grad_(True)
            x = clone_for_autograd(noise(*shape)["samples"], DEVICE)
            gc.collect()
            before = MEMORY.now
            answer = unet(x, 2.0, context)
            assert answer.requires_grad
            kept.append(MEMORY.now - before)
            made.append(from_gpu(torch.autograd.grad(answer.pow(2).sum(), [context])[0]))
            del answer
    assert kept[1] < kept[0] / 5
    assert difference(*made) < 1e-5 * float(made[0].abs().max())


@pytest.mark.parametrize("inference", [True, False])
def test_what_is_loaded_meanwhile_is_loaded_as_the_node_runs(gpu, inference):
    with torch.inference_mode(inference), torch.no_grad():
        model = on_device(tiny("sd1"))
        with gradients(), gradients():
            BorrowedNetworks().add(model)
            assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()
        assert {weight.is_inference() for weight in model.model.parameters()} == {inference}
