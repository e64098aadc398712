"""CLIP_VISION as a source of features of color memories: DINOv2, DINOv3, SigLIP, SigLIP 2 and CLIP."""

import pytest
import torch

from comfyui_exemplar.color import desaturate
from comfyui_exemplar.hosts.comfy.encoders import features_of
from comfyui_exemplar.pipelines.encoder_features import alike
from comfyui_exemplar.pipelines.memory_settings import FeatureSettings

from .encoders import KINDS, clip_vision

SETTINGS = FeatureSettings(resolution=32, context=0.0)


@pytest.fixture(scope="module", params=KINDS)
def encoder(request):
    return clip_vision(request.param)


def pictures(count=1, height=32, width=32, seed=1):
    return desaturate(torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(seed)))


def test_what_the_encoder_itself_gives_at_its_own_size(encoder):
    gray = (pictures() * 255).round() / 255
    if encoder.model_type == "dinov3":  # ComfyUI asks it for a block that its class doesn't give
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (encoder.image_mean, encoder.image_std))
        found = encoder.model((gray.movedim(-1, 1) - mean) / std)[0][:, 5:]
        network = features_of(encoder, FeatureSettings("block.3", resolution=32))
        tokens = network.encoder.tokens((gray.movedim(-1, 1) - mean) / std, [3])[0]
        torch.testing.assert_close(encoder.model.norm(tokens)[:, 5:], found)
        expected = alike(tokens[:, 5:])
    else:
        network = features_of(encoder, SETTINGS)
        found = encoder.encode_image(gray)["penultimate_hidden_states"]
        expected = alike(found[:, 0 if encoder.model_type.startswith("siglip") else 1 :])
    features = network.features(gray)
    torch.testing.assert_close(features.keys[0], expected, atol=1e-4, rtol=1e-4)
    assert features.queries is features.keys and features.grids == ((4, 4),)
