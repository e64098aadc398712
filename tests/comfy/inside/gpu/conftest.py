"""A ComfyUI that believes to have a GPU: everything that its nodes load goes to the pretended device."""

import comfy.model_management as mm
import pytest
import torch

from comfyui_exemplar.hosts.comfy.embedded import load_demo

from ....fixtures.pretended_gpu import DEVICE, PretendedGPU
from ..crossings.columns import COLUMNS, GUIDERS
from ..kit import kit_in
from ..pairs import STEPS
from ..sampling import invert_whole
from .bench import Bench


@pytest.fixture(scope="module")
def gpu():
    """The device, watched, for all tests of a file."""
    memory = 8 * 1024**3
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode(), PretendedGPU() as watched:
        for name in ("get_free_memory", "get_total_memory"):
            # asked for torch's own share as well, by place or by name, they give two numbers
            patch.setattr(mm, name, lambda dev=None, *both, **named: (memory,) * 2 if both or named else memory)
        for name in ("get_torch_device", "vae_device", "text_encoder_device"):
            patch.setattr(mm, name, lambda: DEVICE)
        yield watched


@pytest.fixture(scope="module")
def embedded(gpu):
    """(MODEL, CLIP, VAE, empty prompt) of the embedded model, on the device."""
    model, clip, vae = load_demo()
    return model, clip, vae, clip.encode_from_tokens_scheduled(clip.tokenize(""))


@pytest.fixture(scope="module")
def source(nodes, embedded, scene):
    return invert_whole(nodes, embedded, scene[1], STEPS)


@pytest.fixture(scope="module")
def inverted(nodes, embedded, scene):
    model, _, vae, empty = embedded
    gray, color = scene
    (marked,) = nodes("ExemplarAttentionCapture", model=model, layers="color", keep="everything (q, k, v)")
    colorless = color.mean(-1, keepdim=True).expand(-1, -1, -1, 3)
    return {
        name: nodes(
            "ExemplarDDIMInversion", model=marked, conditioning=empty, latent={"samples": vae.encode(image)}, depth=4
        )
        for name, image in (("input", gray), ("reference", color), ("gray", colorless))
    }


@pytest.fixture(scope="module")
def column(nodes, embedded, scene, inverted, source):
    """Call it with a column's name -> the column (``crossings.columns``)."""

    def make(name):
        return {**COLUMNS, **GUIDERS}[name](nodes, embedded, scene, source if name in GUIDERS else inverted)

    return make


@pytest.fixture(scope="module")
def kit(nodes, embedded, scene, source, inverted, tmp_path_factory):
    """What every node is run on, on the device."""
    with kit_in(tmp_path_factory.mktemp("work"), nodes, embedded, scene, source, inverted) as made:
        yield made


@pytest.fixture(scope="module")
def bench(gpu, nodes, embedded, scene, source, column):
    """A run of every edit."""
    return Bench(gpu, nodes, embedded, scene, source, column)
