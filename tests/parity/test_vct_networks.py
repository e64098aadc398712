"""VCT's recorded UNet and text encoder, rebuilt, give the recorded outputs."""

import pytest
import torch

from . import hosts
from .vct_set import checksum


def test_the_recipe_makes_the_recorded_weights(vct_set):
    weights = vct_set.unet_weights("diffusers")
    wanted = vct_set.meta["unet"]["sha256_of_concatenated_float32_bytes_in_sorted_diffusers_key_order"]
    assert checksum(weights) == wanted
    assert sum(tensor.numel() for tensor in weights.values()) == vct_set.meta["unet"]["num_params"]


@torch.no_grad()
def test_unet_probe(vct_set):
    host = hosts.diffusers_host(vct_set)
    base = vct_set.file("base")
    probes = [name for name in base if name.startswith("probe_eps_t")]
    assert probes
    for name in probes:
        timestep = int(name.removeprefix("probe_eps_t"))
        eps = host.model.unet(base["probe_x"], timestep, encoder_hidden_states=base["probe_ctx"]).sample
        assert (eps - base[name]).abs().max() <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize("name", ["empty", "concept"])
def test_contexts(vct_set, name):
    base = vct_set.file("base")
    learned = base["learned"]
    clip = vct_set.clip_model(placeholders=len(learned))
    clip.get_input_embeddings().weight[-len(learned) :] = learned
    context = clip(input_ids=base[f"ids_{name}"].long().reshape(1, -1)).last_hidden_state
    assert (context - base[f"ctx_{name}"]).abs().max() <= 1e-5
