"""A tiny random model with a linear autoencoder, and the embedded model."""

from types import SimpleNamespace

import pytest

from comfyui_exemplar.demo import model_path
from comfyui_exemplar.hosts.diffusers.checkpoint import (
    load_standalone,
)
from comfyui_exemplar.hosts.diffusers.host import DiffusersHost
from comfyui_exemplar.pipelines.exemplar import colorize

from ..fixtures.exemplar import QUICK, picture
from ..fixtures.model import tiny_model


@pytest.fixture(scope="session")
def model():
    return tiny_model()


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
