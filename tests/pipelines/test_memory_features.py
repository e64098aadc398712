"""A UNet as a source of features: one call for a picture and its reference, which ends where nothing more is wanted."""

import dataclasses

import pytest
import torch

from comfyui_exemplar.color import desaturate
from comfyui_exemplar.pipelines.memory import color_by_memory, write_references
from comfyui_exemplar.pipelines.memory_features import ModelFeatures, ReadBeside
from comfyui_exemplar.pipelines.memory_settings import FeatureSettings, MemorySettings, WritingSettings

from ..fixtures.exemplar import picture

FEATURES = FeatureSettings(resolution=32, context=0.5)
WRITING = WritingSettings(FEATURES, keys="float32")
ASKING = MemorySettings(FEATURES, coherence=0.0)


@pytest.fixture
def network(host):
    return ModelFeatures(host, FEATURES)


def test_a_picture_and_its_reference_are_one_call(network, counted):
    """Each of its own size, where the network sees them at one; and what memory is too small for is two calls."""
    inputs, reference = picture(2, 64, 96), picture(1, 96, 144)
    apart = write_references(network, reference, WRITING), network.features(desaturate(inputs))
    counted.calls = counted.rows_in = 0
    beside = ReadBeside(network, desaturate(inputs), 8, lambda error: False)
    together = write_references(beside, reference, WRITING)
    assert (counted.calls, counted.rows_in) == (1, 3)
    torch.testing.assert_close(together.keys.floats(), apart[0].keys.floats(), rtol=2e-3, atol=2e-3)
    for one, two in zip(beside.kept.queries + beside.kept.keys, apart[1].queries + apart[1].keys, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    result = color_by_memory(network, inputs, together, ASKING, features=beside.kept)
    assert result.images.shape == inputs.shape and counted.calls == 1
    for others, at_once in ((picture(1, 64, 64), 8), (inputs, 2)):  # another shape, too many
        beside = ReadBeside(network, desaturate(others), at_once, lambda error: False)
        write_references(beside, reference, WRITING)
        assert beside.kept is None


def test_memory_that_runs_out_reads_them_one_after_another(network, counted, monkeypatch):
    read = type(network).together

    def small(self, *batches):
        if len(batches) > 1:
            raise torch.OutOfMemoryError("out of memory (test)")
        return read(self, *batches)

    monkeypatch.setattr(type(network), "together", small)
    beside = ReadBeside(network, desaturate(picture(1)), 8, lambda error: isinstance(error, torch.OutOfMemoryError))
    assert write_references(beside, picture(2), WRITING).keys is not None
    assert beside.kept is None and counted.calls == 1


def test_the_attention_of_the_network_is_what_it_was(network):
    """After a call that ended early, and after one that failed."""
    unet = network.host.model.unet
    before = unet.attn_processors
    gray = desaturate(picture(1))
    network.features(gray)
    assert unet.attn_processors == before
    handle = unet.mid_block.register_forward_pre_hook(lambda *_: 1 / 0)
    try:
        with pytest.raises(ZeroDivisionError):
            network.features(gray)
    finally:
        handle.remove()
    assert unet.attn_processors == before


def test_it_ends_with_the_last_layer_that_is_read(host, counted):
    """And gives what a call that goes on gives."""
    gray = desaturate(picture(2))
    early = ModelFeatures(host, dataclasses.replace(FEATURES, layers="output.1-2")).features(gray)
    late = ModelFeatures(host, dataclasses.replace(FEATURES, layers="output.1-3")).features(gray)
    assert counted.calls == 2 and counted.rows_out == 0
    for one, two in zip(early.queries + early.keys, late.queries[:2] + late.keys[:2], strict=True):
        assert torch.equal(one, two)
    last = []
    handle = host.model.unet.up_blocks[-1].attentions[-1].register_forward_pre_hook(lambda *_: last.append(1))
    try:
        ModelFeatures(host, dataclasses.replace(FEATURES, layers="output.1-2")).features(gray)
        assert not last
    finally:
        handle.remove()


def test_a_step_is_told_of(host):
    told = []
    host.on_step = told.append
    ModelFeatures(host, FEATURES).features(desaturate(picture(2)))
    assert [len(each) for each in told] == [2] and bool(told[0].isfinite().all())
