"""The networks that ComfyUI manages, with all of its memory and with none (``--novram``): inputs go to the weights."""

import comfy.model_management as mm
import folder_paths
import pytest
import torch

from comfyui_exemplar.hosts.comfy.folders import CLIPSEG

from ....fixtures.clipseg import save


@pytest.fixture(params=[mm.VRAMState.NORMAL_VRAM, mm.VRAMState.NO_VRAM], ids=["normal", "novram"])
def memory(request, monkeypatch, gpu):
    monkeypatch.setattr(mm, "vram_state", request.param)
    monkeypatch.setattr(mm, "current_loaded_models", [])


def ddcolor(nodes, scene, embedded):
    (network,) = nodes("ExemplarLoadDDColor", model_name="embedded")
    return nodes("ExemplarDDColor", ddcolor=network, image=scene[0])[0]


def deadiff(nodes, scene, embedded):
    (network,) = nodes("ExemplarLoadDEADiff", model_name="embedded")
    (tokens,) = nodes("ExemplarDEADiffEncode", deadiff=network, image=scene[1], take="style & semantics")
    return torch.cat([part.flatten() for part in tokens.tokens.values()])


def lcad(nodes, scene, embedded):
    _, clip, lcad_vae = nodes("ExemplarLoadLCAD", model_name="embedded")
    texts = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("red apple", "")]
    *_, latent = nodes(
        "ExemplarLCADCondition",
        positive=texts[0],
        negative=texts[1],
        image=scene[0],
        lcad_vae=lcad_vae,
        resolution=64,
        variations=1,
    )
    return nodes("ExemplarLCADDecode", latent=latent, image=scene[0], lcad_vae=lcad_vae)[0]


def clipseg(nodes, scene, embedded):
    (network,) = nodes("ExemplarLoadCLIPSeg", model_name="tiny")
    return nodes("ExemplarReferringMask", referring=network, image=scene[1], phrases="cup")[0]


@pytest.fixture
def folder(tmp_path, monkeypatch, gpu):
    with torch.inference_mode(False), torch.no_grad():
        save(tmp_path / "clipseg" / "tiny")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, CLIPSEG.name, ([str(tmp_path / "clipseg")], set()))


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("case", [ddcolor, deadiff, lcad, clipseg])
def test_pictures_come_back(memory, nodes, scene, embedded, case):
    made = case(nodes, scene, embedded)
    assert made.device.type == "cpu" and torch.isfinite(made).all()
