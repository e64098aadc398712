"""A tiny random model with a linear autoencoder, and the embedded model."""

from types import SimpleNamespace

import pytest
import torch

from comfyui_exemplar.demo import model_path
from comfyui_exemplar.hosts.diffusers.checkpoint import (
    LinearCodec,
    StandaloneModel,
    alphas_cumprod,
    load_standalone,
)
from comfyui_exemplar.hosts.diffusers.host import DiffusersHost
from comfyui_exemplar.networks.embedded.autoencoder import LinearAutoencoder
from comfyui_exemplar.pipelines.exemplar import colorize

from .exemplar_set import QUICK, picture

FACTOR = 4


def codec():
    """Four pixels to a latent: mean R, G and B, and the step from the left half of the patch to the right."""
    step = torch.where(torch.arange(FACTOR) < FACTOR // 2, -1.0, 1.0).expand(FACTOR, FACTOR)
    mean = torch.ones(FACTOR, FACTOR)
    encoder = torch.zeros(4, 3, FACTOR, FACTOR)
    decoder = torch.zeros(3, FACTOR, FACTOR, 4)
    for color in range(3):
        encoder[color, color] = mean / FACTOR**2
        encoder[3, color] = step / FACTOR**2 / 3
        decoder[color, ..., color] = 1
        decoder[color, ..., 3] = step
    weights = {
        "enc_w": encoder,
        "enc_b": torch.zeros(4),
        "dec_w": decoder.reshape(3 * FACTOR**2, 4, 1, 1),
        "dec_b": torch.zeros(3 * FACTOR**2),
    }
    return LinearCodec(LinearAutoencoder.from_state_dict(weights), 1.5)


@pytest.fixture(scope="session")
def model():
    """Two resolutions, one transformer a block: output.0 and 1 are deep, output.2 and 3 shallow."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(11)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=4,
        cross_attention_dim=16,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
    )
    return StandaloneModel(
        unet=unet.eval().requires_grad_(False),
        vae=codec(),
        alphas_cumprod=alphas_cumprod(),
        prediction="epsilon",
        context=torch.randn(1, 5, 16),
        added=None,
        name="tiny",
        fingerprint="tiny",
    )


@pytest.fixture(scope="session")
def host(model):
    return DiffusersHost(model)


@pytest.fixture
def counted(model):
    """What the UNet runs: calls, rows that enter it, rows that leave it."""
    counts = SimpleNamespace(calls=0, rows_in=0, rows_out=0)

    def entering(_module, args, kwargs):
        counts.calls += 1
        counts.rows_in += len(args[0] if args else kwargs["sample"])

    def leaving(_module, args):
        counts.rows_out += len(args[0])

    handles = [
        model.unet.register_forward_pre_hook(entering, with_kwargs=True),
        model.unet.conv_out.register_forward_pre_hook(leaving),
    ]
    yield counts
    for handle in handles:
        handle.remove()


@pytest.fixture(scope="session")
def embedded():
    return load_standalone(model_path())


@pytest.fixture(scope="session")
def base(host):
    """The quick run of exemplar colorization that others are compared with."""
    return colorize(host, picture(), picture(seed=1), QUICK)
