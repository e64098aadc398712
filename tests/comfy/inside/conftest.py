"""Fixtures for tests that run inside a ComfyUI checkout, without its server."""

import pytest
import torch

from comfyui_exemplar.diffusion.schedule import inversion_plan
from comfyui_exemplar.hosts.comfy.embedded import load_demo
from comfyui_exemplar.nodes import NODES

from .kit import kit_in
from .pairs import STEPS
from .sampling import invert_whole


@pytest.fixture(autouse=True)
def inference_mode():
    """As in the server."""
    with torch.inference_mode():
        yield


@pytest.fixture(scope="session")
def nodes():
    """Run a node by its id: ``nodes("ExemplarDesaturate", image=...)`` -> tuple of outputs."""
    by_id = {node.define_schema().node_id: node for node in NODES}

    def run(node_id, **inputs):
        return by_id[node_id].execute(**inputs).result

    return run


@pytest.fixture(scope="session")
def embedded():
    """(MODEL, CLIP, VAE, empty prompt) of the embedded model."""
    model, clip, vae = load_demo()
    return model, clip, vae, clip.encode_from_tokens_scheduled(clip.tokenize(""))


@pytest.fixture(scope="session")
def scene():
    """A gray input and a reference, 64 x 64, with structure."""
    rows = torch.linspace(0, 1, 64)[:, None].expand(64, 64)
    shape = ((rows - 0.5) ** 2 + (rows.T - 0.5) ** 2 < 0.08).float()
    gray = (0.9 - 0.5 * shape * (0.5 + rows.T))[None, ..., None].expand(1, 64, 64, 3)
    moved = torch.roll(shape, (6, -4), (0, 1))
    color = torch.stack([0.9 - 0.1 * moved, 0.9 - 0.7 * moved, 0.9 - 0.6 * moved], -1)[None]
    return gray.contiguous(), color


@pytest.fixture(scope="session")
def source(nodes, embedded, scene):
    """A colored picture, inverted over a whole schedule of four steps: what DDIM Inversion returns."""
    with torch.inference_mode():
        return invert_whole(nodes, embedded, scene[1], STEPS)


@pytest.fixture(scope="session")
def inverted(nodes, embedded, scene):
    """Inversions of input, reference and gray reference, four steps deep, and what the input's node returned."""
    model, _, vae, empty = embedded
    gray, color = scene
    with torch.inference_mode():
        (marked,) = nodes("ExemplarAttentionCapture", model=model, layers="color", keep="everything (q, k, v)")
        made = {}
        colorless = color.mean(-1, keepdim=True).expand(-1, -1, -1, 3)
        for name, image in (("input", gray), ("reference", color), ("gray", colorless)):
            made[name] = nodes(
                "ExemplarDDIMInversion",
                model=marked,
                conditioning=empty,
                latent={"samples": vae.encode(image)},
                depth=4,
                steps=50,
            )
    return made


@pytest.fixture
def injected(nodes, embedded, inverted):
    """Dual attention on the embedded model, the paper's: call it with settings -> MODEL."""
    paper = {"gamma_shallow": 0.5, "gamma_deep": 1.0, "beta_shallow": 0.5, "beta_deep": 0.0}

    def make(model=None, **settings):
        return nodes(
            "ExemplarDualAttentionColor",
            model=model or embedded[0],
            input_inversion=inverted["input"][0],
            reference_inversion=inverted["reference"][0],
            gray_inversion=inverted["gray"][0],
            **{"strength": 1.0, **paper, **settings},
        )[0]

    return make


@pytest.fixture(scope="session")
def plan(embedded):
    return inversion_plan(embedded[0].get_model_object("model_sampling").sigmas, 50, 4)


@pytest.fixture(scope="session")
def kit(nodes, embedded, scene, source, inverted, tmp_path_factory):
    """What every node is run on (``work.RUNS``), in folders of its own."""
    with (
        torch.inference_mode(),
        kit_in(tmp_path_factory.mktemp("work"), nodes, embedded, scene, source, inverted) as made,
    ):
        yield made
