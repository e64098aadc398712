"""The tiny UNet of the recorded numbers, read from its LDM names, gives the recorded output."""

import pytest
import torch

from comfyui_exemplar.hosts.diffusers.checkpoint import alphas_cumprod, unet_from_ldm


@pytest.fixture(scope="module")
def manifest(exemplar_set):
    return exemplar_set.manifest


@pytest.fixture(scope="module")
def common(exemplar_set):
    return exemplar_set.file("common")


@pytest.fixture(scope="module")
def weights(exemplar_set):
    return exemplar_set.file("weights")


def test_sizes_are_read_from_the_file(manifest, weights):
    sizes = manifest["unet"]
    config = unet_from_ldm(weights, heads=sizes["num_heads"]).config
    assert config.in_channels == sizes["in_channels"] and config.out_channels == sizes["out_channels"]
    assert list(config.block_out_channels) == [sizes["model_channels"] * m for m in sizes["channel_mult"]]
    assert config.layers_per_block == sizes["num_res_blocks"]
    assert config.cross_attention_dim == sizes["context_dim"]
    crossed = [2**i for i, kind in enumerate(config.down_block_types) if kind.startswith("CrossAttn")]
    assert crossed == sorted(sizes["attention_resolutions"])
    assert not config.use_linear_projection


@pytest.mark.parametrize("prefixed", [True, False])
@torch.no_grad()
def test_unet_forward(exemplar_set, manifest, common, weights, prefixed):
    recorded = exemplar_set.file("unet_forward")
    if not prefixed:
        weights = {name.removeprefix("model.diffusion_model."): tensor for name, tensor in weights.items()}
    unet = unet_from_ldm(weights, heads=manifest["unet"]["num_heads"])
    context = common["context"].repeat(len(recorded["x"]), 1, 1)
    eps = unet(recorded["x"], recorded["t"], encoder_hidden_states=context).sample
    assert (eps - recorded["eps"]).abs().max() <= manifest["suggested_max_abs_tolerance"]["unet_forward"]


def test_noise_schedule(manifest, common):
    s = manifest["schedule"]
    alphas = alphas_cumprod("scaled_linear", s["beta_start"], s["beta_end"], s["num_train_timesteps"])
    assert torch.equal(alphas, common["alphas_cumprod"])
