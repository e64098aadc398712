"""TAESD, as Load VAE offers it, in the place of a MODEL's own VAE: color memories read pictures through it."""

import comfy.taesd.taesd
import comfy.utils
import folder_paths
import pytest
import torch

import nodes as stock
from comfyui_exemplar.color import desaturate
from comfyui_exemplar.hosts.comfy.host import ComfyHost

from .models import prompt, tiny

FAMILIES = {"sd1": "taesd", "sdxl": "taesdxl"}


@pytest.fixture
def taesd(tmp_path, monkeypatch):
    """Files of random numbers where Load VAE looks for TAESD; name -> what it loads."""
    torch.manual_seed(3)
    network = comfy.taesd.taesd.TAESD(latent_channels=4)
    for weight in network.parameters():  # the core leaves them as they come
        torch.nn.init.normal_(weight, std=0.05)
    for name in FAMILIES.values():
        for half in ("encoder", "decoder"):
            weights = getattr(network, f"taesd_{half}").state_dict()
            comfy.utils.save_torch_file(weights, str(tmp_path / f"{name}_{half}.safetensors"))
    paths, suffixes = folder_paths.folder_names_and_paths["vae_approx"]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "vae_approx", ([*paths, str(tmp_path)], suffixes))
    folder_paths.filename_list_cache.pop("vae_approx", None)
    yield lambda name: stock.VAELoader().load_vae(name)[0]
    folder_paths.filename_list_cache.pop("vae_approx", None)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_memory_is_written_and_asked(nodes, taesd, scene, family):
    vae = taesd(FAMILIES[family])
    look = {"model": tiny(family), "vae": vae, "conditioning": prompt(family), "resolution": 64}
    (memory,) = nodes("ExemplarColorMemory", references=scene[1], **look)
    image, confidence, _ = nodes("ExemplarMemoryColorize", image=scene[0], memory=memory, **look)
    assert image.shape == scene[0].shape and bool(image.isfinite().all()) and bool(confidence.isfinite().all())
    by_one, *_ = nodes("ExemplarColorize", image=scene[0], reference=scene[1], method="memory", **look)
    assert (
        by_one - nodes("ExemplarMemoryColorize", image=scene[0], memory=memory, fallback_below=0.0, **look)[0]
    ).abs().max() < 2e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_its_latents_are_the_models(taesd, scene, family):
    """It gives what the UNet reads; Load VAE's VAE undoes the factor that the MODEL puts on again."""
    vae, picture = taesd(FAMILIES[family]), desaturate(scene[1])
    host = ComfyHost(tiny(family), prompt(family), vae)
    raw = vae.first_stage_model.taesd_encoder(picture.movedim(-1, 1))
    assert host.factor == 8
    torch.testing.assert_close(host.encode(picture).float(), raw.float(), rtol=2e-2, atol=2e-2)
