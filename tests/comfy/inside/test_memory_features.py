"""Features for color memories from a MODEL: one row a picture, whatever else is in its batch."""

import dataclasses

import pytest
import torch

from comfyui_exemplar import demo
from comfyui_exemplar.color import desaturate
from comfyui_exemplar.hosts.comfy.encoders import memory_recommended
from comfyui_exemplar.hosts.comfy.host import ComfyHost
from comfyui_exemplar.pipelines.memory import color_by_memory, write_references
from comfyui_exemplar.pipelines.memory_features import ModelFeatures
from comfyui_exemplar.pipelines.memory_settings import MemorySettings, WritingSettings
from comfyui_exemplar.pipelines.recommended import read_recommended

from . import models


def settings():
    chosen = read_recommended(demo.model_path())["memory"] | {"resolution": 64}
    return MemorySettings.resolve(chosen), WritingSettings.resolve(chosen)


def test_one_row_a_picture_and_the_model_stays_as_it_was(embedded, scene):
    model, _, vae, empty = embedded
    rows = []
    watched = model.clone()
    watched.set_model_unet_function_wrapper(
        lambda apply, args: rows.append(len(args["input"])) or apply(args["input"], args["timestep"], **args["c"])
    )
    asking, writing = settings()
    network = ModelFeatures(ComfyHost(watched, empty, vae), asking.features)
    memory = write_references(network, scene[1], writing)
    result = color_by_memory(network, scene[0], memory, asking)
    assert rows == [1, 1]
    assert result.images.shape == scene[0].shape and result.images.isfinite().all()
    assert "exemplar" not in str(watched.model_options)


def test_layers_level_and_each_picture_of_a_batch(embedded, scene):
    model, _, vae, empty = embedded
    asking, _ = settings()
    network = ModelFeatures(ComfyHost(model, empty, vae), asking.features)
    gray = desaturate(scene[1])
    found = network.features(gray)
    latent = network.host.encode(gray)
    level = float(network.host.sigma_table[asking.features.timestep])
    assert [space.name for space in found.spaces] == ["output.3", "output.4", "output.5"]
    assert all(abs(space.level - level) < 1e-6 for space in found.spaces)
    assert found.grids == ((8, 8), (16, 16), (16, 16)) and latent.shape[-2:] == (16, 16)
    # a batch gives each picture what it has alone
    both = network.features(torch.cat([gray, desaturate(scene[0])]))
    for one, two in zip(found.queries + found.keys, both.queries + both.keys, strict=True):
        assert (one[0] - two[0]).abs().max() < 1e-3 * one.abs().max()


def test_the_unet_ends_with_the_last_layer_that_is_read(embedded, scene):
    """What runs around it sees a call like any other, and a plain run afterwards is what it was."""
    model, _, vae, empty = embedded
    seen = []
    watched = model.clone()

    def wrapper(apply, args):
        made = apply(args["input"], args["timestep"], **args["c"])
        seen.append((made.shape, bool(made.isfinite().all())))
        return made

    watched.set_model_unet_function_wrapper(wrapper)
    watched.set_model_output_block_patch(lambda h, skip, options: seen.append(options["block"]) or (h, skip))
    asking, _ = settings()
    chosen = dataclasses.replace(asking.features, layers="output.2-3")
    estimates = []
    host = ComfyHost(watched, empty, vae, on_step=estimates.append)
    found = ModelFeatures(host, chosen).features(desaturate(scene[1]))
    blocks = [block for block in seen if block[0] == "output"]
    assert blocks == [("output", 0), ("output", 1), ("output", 2), ("output", 3)], "of six"
    assert seen[-1] == ((1, 4, 16, 16), True) and len(estimates) == 1
    # the same as of a call that goes on to the last layer
    further = ModelFeatures(host, dataclasses.replace(chosen, layers="output.2-3, output.5")).features(
        desaturate(scene[1])
    )
    for one, two in zip(found.queries + found.keys, further.queries[:2] + further.keys[:2], strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize(("family", "side"), [("sd1", 512), ("sdxl", 1024)])
def test_auto_is_the_size_that_a_family_was_trained_on(family, side):
    recommended = memory_recommended(models.tiny(family))
    for settings_of in (MemorySettings, WritingSettings):
        assert settings_of.resolve(recommended).features.resolution == side
