"""Colors for what an edit does not show, by a color memory: a drawing of two things, one of whose berries is painted
over."""

from dataclasses import replace

import pytest
import torch

from comfyui_exemplar.color import ab_error, desaturate
from comfyui_exemplar.demo import ExampleSettings, example_paths, model_path
from comfyui_exemplar.files.pictures import load_picture
from comfyui_exemplar.hosts.diffusers.checkpoint import load_standalone
from comfyui_exemplar.hosts.diffusers.host import DiffusersHost
from comfyui_exemplar.pipelines import transfer
from comfyui_exemplar.pipelines.memory import write_references
from comfyui_exemplar.pipelines.memory_features import ModelFeatures
from comfyui_exemplar.pipelines.memory_settings import MemorySettings, WritingSettings
from comfyui_exemplar.pipelines.transfer import TransferSettings, transfer_colors

PLACE = (slice(None), slice(150, 215), slice(285, 350))


@pytest.fixture(scope="module")
def network():
    """The embedded model as what looks at pictures, and how it recommends to ask it."""
    model = load_standalone(model_path(), device=torch.device("cpu"), dtype=torch.float32)
    asking = MemorySettings.resolve(model.recommended["memory"])
    return {"network": ModelFeatures(DiffusersHost(model), asking.features), "asking": asking}


@pytest.fixture(scope="module")
def pair():
    truth = load_picture(example_paths(ExampleSettings("scene"))[1])
    edited = truth.clone()
    edited[:, 140:240, 280:380] = torch.tensor([0.1, 0.9, 0.2])
    return truth, desaturate(truth), edited


def error(result, truth):
    return float(ab_error(result.images[PLACE], truth[PLACE]))


def test_the_copy_itself_is_looked_in(network, pair):
    truth, gray, edited = pair
    plain = transfer_colors(gray, edited, TransferSettings())
    looked = transfer_colors(gray, edited, TransferSettings(), **network)
    assert float(plain.confidence[PLACE].mean()) < 0.5
    assert error(looked, truth) < 0.7 * error(plain, truth)
    sure = plain.confidence > 0.9
    assert float((looked.images - plain.images)[sure].abs().max()) < 0.01, "what the edit shows is the edit's"
    assert torch.equal(looked.confidence[sure], plain.confidence[sure])
    assert float(looked.confidence[PLACE].mean()) > float(plain.confidence[PLACE].mean()) + 0.1, "and the memory's own"


def test_a_memory_is_asked_in_its_place(network, pair):
    truth, gray, edited = pair
    memory = write_references(network["network"], truth, WritingSettings(network["asking"].features))
    plain = transfer_colors(gray, edited, TransferSettings())
    looked = transfer_colors(gray, edited, TransferSettings(), memory=memory, **network)
    assert error(looked, truth) < 0.5 * error(plain, truth)
    # before the fallback, which gives the rest
    other = transfer_colors(gray, edited, TransferSettings(), memory=memory, fallback=1 - truth, **network)
    assert error(other, truth) < 0.5 * error(plain, truth)


def test_nothing_is_sure(network, pair):
    """Nothing to look in: as without the network."""
    _, gray, edited = pair
    never = TransferSettings(fallback_below=1.0)
    noise = torch.rand(edited.shape, generator=torch.Generator().manual_seed(0))
    made = [transfer_colors(gray, noise, never, **more).images for more in ({}, network)]
    assert bool(made[1].isfinite().all()) and made[0].shape == made[1].shape


def test_refused_before_any_work(network, pair, monkeypatch):
    truth, gray, edited = pair
    memory = write_references(network["network"], truth, WritingSettings(network["asking"].features))
    monkeypatch.setattr(transfer, "register", lambda *_: pytest.fail("it went to work"))
    with pytest.raises(ValueError, match="memory: found one without the network"):
        transfer_colors(gray, edited, TransferSettings(), memory=memory)
    foreign = replace(memory, made=replace(memory.made, fingerprint="another"))
    with pytest.raises(ValueError, match="memory: found a memory of the model"):
        transfer_colors(gray, edited, TransferSettings(), memory=foreign, **network)
