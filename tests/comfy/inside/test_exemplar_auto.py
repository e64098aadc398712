"""Stage Settings and Scale to Working Size: what Exemplar Colorize decides inside, for its stages."""

import pytest
import torch

from comfyui_exemplar.color import desaturate, resize
from comfyui_exemplar.demo import model_path
from comfyui_exemplar.hosts.comfy.host import ComfyHost
from comfyui_exemplar.nodes import NODES
from comfyui_exemplar.pipelines.exemplar_inversion import size_to_work_at
from comfyui_exemplar.pipelines.exemplar_settings import ColorizeSettings
from comfyui_exemplar.pipelines.recommended import read_recommended

from . import models
from .sampling import run_guider

BY_ID = {node.define_schema().node_id: node.define_schema() for node in NODES}
NAMES = [output.display_name for output in BY_ID["ExemplarStageSettings"].outputs]


def of(nodes, model, **values):
    return dict(zip(NAMES, nodes("ExemplarStageSettings", model=model, **values), strict=True))


def test_auto_is_what_the_model_recommends(nodes, embedded):
    recommended = read_recommended(model_path())["exemplar"]
    left = {name: -1 for name in NAMES}
    assert of(nodes, embedded[0], **left) == {name: recommended[name] for name in NAMES}
    assert of(nodes, embedded[0]) == {name: recommended[name] for name in NAMES}
    chosen = of(nodes, embedded[0], **{**left, "depth": 3, "match_chroma": 0.5})
    assert (chosen["depth"], chosen["match_chroma"]) == (3, 0.5) and chosen["steps"] == recommended["steps"]


def test_another_model_s_are_the_paper_s(nodes):
    found, paper = of(nodes, models.tiny("sd1")), ColorizeSettings()
    own = {**vars(paper), **vars(paper.attention)}
    assert found == {name: own[name] for name in NAMES}


def test_the_widgets_are_exemplar_colorize_s():
    """The same names, bounds, texts and automatic values, in its order."""
    whole = {item.id: item for item in BY_ID["ExemplarColorize"].inputs}
    own = [item for item in BY_ID["ExemplarStageSettings"].inputs if item.id != "model"]
    assert [item.id for item in own] == NAMES == sorted(NAMES, key=list(whole).index)
    for item in own:
        other = whole[item.id]
        assert (item.default, item.min, item.max, item.step, item.tooltip) == (
            *(other.default, other.min, other.max, other.step),
            other.tooltip,
        )


@pytest.mark.parametrize("size", [(64, 64), (200, 120), (31, 77)])
@pytest.mark.parametrize("resolution", [-1, 0, 64, 100])
def test_the_size_is_the_one_that_exemplar_colorize_works_at(nodes, embedded, size, resolution):
    model, _, vae, empty = embedded
    image = torch.rand(2, *size, 3, generator=torch.Generator().manual_seed(1))
    (small,) = nodes("ExemplarWorkingSize", image=image, model=model, vae=vae, resolution=resolution)
    chosen = {} if resolution < 0 else {"resolution": resolution}
    settings = ColorizeSettings.resolve(read_recommended(model_path())["exemplar"], **chosen)
    expected = size_to_work_at(ComfyHost(model, empty, vae), image, settings)
    assert torch.equal(small, resize(image, expected)) and small.shape[1:3] == expected


def test_what_does_not_fit_is_said(nodes, embedded):
    model, _, vae, _ = embedded
    with pytest.raises(ValueError, match=r"^Scale to Working Size: image: found nothing"):
        nodes("ExemplarWorkingSize", image=None, model=model, vae=vae)
    with pytest.raises(ValueError, match=r"^Scale to Working Size: vae: found a VAE .*expected one"):
        nodes("ExemplarWorkingSize", image=torch.rand(1, 8, 8, 3), model=models.tiny("sd1"), vae=vae)
    with pytest.raises(ValueError, match=r"depth"):
        nodes("ExemplarStageSettings", model=model, depth=1000)


@pytest.mark.parametrize("size", [(64, 64), (96, 144)])
def test_the_stages_give_what_exemplar_colorize_gives(nodes, embedded, scene, size):
    """On auto: the same picture but for what inverting three at once and one by one changes in the last digits."""
    model, _, vae, empty = embedded
    image, reference = (resize(each, size) for each in scene)
    whole = nodes(
        "ExemplarColorize", model=model, vae=vae, conditioning=empty, image=image, reference=reference, resolution=64
    )[0]
    number = of(nodes, model, resolution=64)
    pictures = {"input": nodes("ExemplarDesaturate", image=image)[0], "reference": reference}
    pictures["gray"] = desaturate(reference)
    keep = {"input": "input (q, k)", "reference": "reference (k, v)", "gray": "gray reference (k)"}
    made = {}
    for name, each in pictures.items():
        (small,) = nodes("ExemplarWorkingSize", image=each, model=model, vae=vae, resolution=number["resolution"])
        (marked,) = nodes("ExemplarAttentionCapture", model=model, layers="color", keep=keep[name])
        made[name] = nodes(
            "ExemplarDDIMInversion",
            model=marked,
            conditioning=empty,
            latent={"samples": vae.encode(small)},
            depth=number["depth"],
            steps=number["steps"],
            measure_round_trip=False,
        )
    (start,) = nodes(
        "ExemplarMatchLatentStatistics",
        latent=made["input"][1],
        reference=made["reference"][1],
        strength=number["match_latents"],
    )
    gammas = {name: number[name] for name in NAMES[-4:]}
    (colored,) = nodes(
        "ExemplarDualAttentionColor",
        model=model,
        input_inversion=made["input"][0],
        reference_inversion=made["reference"][0],
        gray_inversion=made["gray"][0],
        **gammas,
    )
    (guider,) = nodes("ExemplarColorGuidance", model=colored, conditioning=empty, guidance=number["guidance"])
    decoded = vae.decode(run_guider(guider, start, made["input"][2]))
    matched = {"reference": reference, "match_chroma": number["match_chroma"]}
    merged = nodes("ExemplarMergeLuminance", color_image=decoded, image=image, **matched)[0]
    assert (whole - image).abs().max() > 0.05
    assert (merged - whole).abs().max() < 1e-4
