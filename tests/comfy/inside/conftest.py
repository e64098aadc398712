"""Fixtures for tests that run inside a ComfyUI checkout, without its server."""

import folder_paths
import pytest
import torch

from comfyui_exemplar.diffusion.schedule import inversion_plan
from comfyui_exemplar.files.pictures import save_picture
from comfyui_exemplar.hosts.comfy import vct_concept
from comfyui_exemplar.hosts.comfy.embedded import load_demo
from comfyui_exemplar.hosts.comfy.folders import CLIPSEG
from comfyui_exemplar.nodes import NODES

from ...fixtures.clipseg import save as save_clipseg
from .pairs import STEPS
from .sampling import invert_whole
from .work import Kit


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
    folder = tmp_path_factory.mktemp("work")
    places = {name: folder / name for name in ("embeddings", "clipseg", "input", "output", "temp")}
    for path in places.values():
        path.mkdir()
    before = {name: getattr(folder_paths, f"get_{name}_directory")() for name in ("input", "output", "temp")}
    known = dict(folder_paths.folder_names_and_paths)
    for name in before:
        getattr(folder_paths, f"set_{name}_directory")(str(places[name]))
    for name in ("embeddings", CLIPSEG.name):
        folder_paths.folder_names_and_paths[name] = ([str(places[name])], {".safetensors"})
    with torch.inference_mode(False), torch.no_grad():
        save_clipseg(places["clipseg"] / "tiny")
    (places["input"] / "scans").mkdir()
    for path in (places["input"] / "a.png", places["input"] / "scans" / "b.png"):
        save_picture(scene[1], path)
    steps, vct_concept.SAMPLE_STEPS = vct_concept.SAMPLE_STEPS, 3
    with torch.inference_mode():
        (deadiff,) = nodes("ExemplarLoadDEADiff", model_name="embedded")
        made = Kit(
            nodes,
            embedded,
            scene,
            source,
            inverted,
            nodes("ExemplarLoadLCAD", model_name="embedded"),
            nodes("ExemplarLoadDDColor", model_name="embedded")[0],
            deadiff,
            nodes("ExemplarDEADiffEncode", deadiff=deadiff, image=scene[1])[0],
            nodes("ExemplarLoadCLIPSeg", model_name="tiny")[0],
            places["embeddings"],
        )
        for pictures in range(1, 6):
            made.latent(pictures)
        yield made
    vct_concept.SAMPLE_STEPS = steps
    folder_paths.folder_names_and_paths.update(known)
    for name, path in before.items():
        getattr(folder_paths, f"set_{name}_directory")(path)
