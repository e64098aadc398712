"""A CLIP_VISION on a device: with all of its memory and with none, features as on the CPU, and little is sent."""

import comfy.model_management as mm
import pytest
import torch

from comfyui_exemplar.hosts.comfy.encoders import features_of
from comfyui_exemplar.pipelines.memory import color_by_memory, write_references
from comfyui_exemplar.pipelines.memory_settings import FeatureSettings, MemorySettings, WritingSettings

from ....fixtures.pretended_gpu import DEVICE, from_gpu
from ..encoders import KINDS, clip_vision

SETTINGS = FeatureSettings(resolution=48, context=0.0)


@pytest.mark.parametrize("state", [mm.VRAMState.NORMAL_VRAM, mm.VRAMState.NO_VRAM], ids=["normal", "novram"])
@pytest.mark.parametrize("kind", KINDS)
def test_features_and_colors(gpu, monkeypatch, kind, state):
    monkeypatch.setattr(mm, "vram_state", state)
    monkeypatch.setattr(mm, "current_loaded_models", [])
    image = torch.rand(2, 40, 56, 3, generator=torch.Generator().manual_seed(1))
    gray = image.mean(-1, keepdim=True).expand(-1, -1, -1, 3)
    with monkeypatch.context() as patch:
        patch.setattr(mm, "text_encoder_device", lambda: torch.device("cpu"))
        expected = features_of(clip_vision(kind), SETTINGS).features(gray).keys[0]
    network = features_of(clip_vision(kind), SETTINGS)
    found = network.features(gray)
    assert found.keys[0].device == DEVICE
    torch.testing.assert_close(from_gpu(found.keys[0]).cpu(), expected, atol=1e-3, rtol=1e-3)
    memory = write_references(network, image, WritingSettings(SETTINGS))
    result = color_by_memory(network, image, memory, MemorySettings(SETTINGS))
    assert result.images.device.type == "cpu" and result.images.isfinite().all()
