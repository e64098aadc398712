"""Vision encoders of transformers as sources of features of color memories."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from comfyui_exemplar.color import desaturate
from comfyui_exemplar.hosts.diffusers.encoder import load_encoder
from comfyui_exemplar.pipelines.encoder_features import EncoderFeatures, alike
from comfyui_exemplar.pipelines.memory import color_by_memory, write_references
from comfyui_exemplar.pipelines.memory_settings import FeatureSettings, MemorySettings, WritingSettings

from ..fixtures.encoders import KINDS, save
from ..fixtures.pretended_gpu import DEVICE, PretendedGPU, from_gpu

OWN = FeatureSettings(resolution=32, context=0.0)


@pytest.fixture(scope="module", params=KINDS)
def saved(request, tmp_path_factory):
    """(folder, transformers' network)."""
    folder = tmp_path_factory.mktemp(request.param) / "tiny"
    return folder, save(folder, request.param)


def pictures(count=1, height=32, width=32, seed=1):
    return desaturate(torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(seed)))


def hidden(network, encoder, gray, **asked):
    """Patches behind the last block but one, as transformers itself gives them."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in encoder.normed)
    with torch.no_grad():
        states = network((gray.movedim(-1, 1) - mean) / std, output_hidden_states=True, **asked).hidden_states
    return states[-2][:, encoder.extra :]


def test_what_the_network_itself_gives(saved):
    folder, network = saved
    encoder = load_encoder(folder)
    features = EncoderFeatures(encoder, OWN).features(pictures(2))
    torch.testing.assert_close(features.keys[0], alike(hidden(network, encoder, pictures(2))), atol=1e-4, rtol=1e-4)
    assert features.grids == ((4, 4),) and [s.name for s in features.spaces] == ["block.2"]


def test_any_size(saved):
    folder, network = saved
    encoder = load_encoder(folder)
    gray = pictures(1, 40, 64)
    features = EncoderFeatures(encoder, dataclasses.replace(OWN, resolution=0)).features(gray)
    asked = {"interpolate_pos_encoding": True} if encoder.fixed else {}
    expected = alike(hidden(network, encoder, gray, **asked))
    torch.testing.assert_close(features.keys[0], expected, atol=1e-4, rtol=1e-4)
    assert features.grids == ((5, 8),)


def test_each_picture_of_a_batch_as_alone(saved):
    source = EncoderFeatures(load_encoder(saved[0]), dataclasses.replace(OWN, layers="block.1-3"))
    both = torch.cat([pictures(1, 24, 56), pictures(1, 24, 56, seed=2)])
    found, alone = source.features(both), source.features(both[1:])
    assert found.pictures == 2 and len(found.keys) == len(found.spaces) == 3
    for one, other in zip(found.keys, alone.keys, strict=True):
        torch.testing.assert_close(one[1:], other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("dtype", "least"), [(torch.float16, 0.999), (torch.bfloat16, 0.97)])
def test_half_precision(saved, dtype, least):
    full, half = (EncoderFeatures(load_encoder(saved[0], dtype=d), OWN) for d in (torch.float32, dtype))
    assert next(half.encoder.network.parameters()).dtype == dtype
    one, other = (source.features(pictures()).keys[0] for source in (full, half))
    assert other.dtype == torch.float32
    assert torch.cosine_similarity(one, other, dim=-1).min() > least
    assert full.fingerprint == half.fingerprint  # one memory serves both


def test_a_picture_is_colored_by_its_own_colors(saved):
    encoder = load_encoder(saved[0])
    settings = FeatureSettings(resolution=128, context=0.0)
    image = torch.zeros(1, 64, 64, 3)
    image[:, :, :32], image[:, :, 32:] = torch.tensor([0.8, 0.2, 0.2]), torch.tensor([0.1, 0.3, 0.9])
    image = (image + 0.1 * torch.rand(image.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    network = EncoderFeatures(encoder, settings)
    memory = write_references(network, image, WritingSettings(settings), maker=network.name)
    result = color_by_memory(network, desaturate(image), memory, MemorySettings(settings, temperature_fine=0.1))
    off = (result.images - image).abs().mean(-1)[0]
    assert off[:, :28].mean() < 0.1 and off[:, 36:].mean() < 0.1  # grayed it would be off by 0.2
    assert len(memory) == 16 * 16 and memory.made.name == "tiny"


def test_on_a_device(saved):
    source = EncoderFeatures(load_encoder(saved[0]), dataclasses.replace(OWN, resolution=48))
    expected = source.features(pictures(2, 40, 56)).keys[0]
    with PretendedGPU():
        found = EncoderFeatures(load_encoder(saved[0], device=DEVICE), source.settings).features(pictures(2, 40, 56))
        assert found.keys[0].device == DEVICE
    torch.testing.assert_close(from_gpu(found.keys[0]).cpu(), expected, atol=1e-4, rtol=1e-4)


class TestFiles:
    def test_names_with_and_without_the_part(self, saved, tmp_path):
        """transformers 5 saves a CLIPVisionModel's without `vision_model.`, 4 with it; either reads both."""
        folder, _ = saved
        weights = {name.removeprefix("vision_model."): t for name, t in load_file(folder / "model.safetensors").items()}
        save_file(weights, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
        found, known = load_encoder(tmp_path), load_encoder(folder)
        one, other = (EncoderFeatures(e, OWN).features(pictures()).keys[0] for e in (found, known))
        assert torch.equal(one, other)

    def test_a_file_beside_its_configuration(self, saved):
        folder, _ = saved
        encoder = load_encoder(folder / "model.safetensors")
        assert encoder.name == "model" and encoder.fingerprint == load_encoder(folder).fingerprint

    def test_a_whole_model_s_folder(self, tmp_path):
        """As CLIP and SigLIP are published: with a text model and heads, under names of their own."""
        for kind, named, rest in (("CLIPVision", "clip", "visual_projection.weight"), ("SiglipVision", "siglip", "")):
            folder = tmp_path / kind
            save(folder, kind)
            alone = EncoderFeatures(load_encoder(folder), OWN)
            gray = pictures()
            expected = alone.features(gray).keys[0]
            weights = load_file(folder / "model.safetensors")
            part = "vision_model."
            weights = {f"{part}{name.removeprefix(part)}": tensor for name, tensor in weights.items()}
            weights |= {"text_model.x": torch.ones(2), "logit_scale": torch.ones(())}
            weights |= {"vision_model.embeddings.position_ids": torch.arange(16)[None]}
            weights |= {rest: torch.ones(2, 2)} if rest else {}
            save_file(weights, folder / "model.safetensors")
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps({"model_type": named, "vision_config": config}))
            whole = EncoderFeatures(load_encoder(folder), OWN)
            assert whole.fingerprint == alone.fingerprint
            torch.testing.assert_close(whole.features(gray).keys[0], expected)

    def test_preprocessing_of_its_own(self, saved, tmp_path):
        folder, _ = saved
        for name in ("config.json", "model.safetensors"):
            (tmp_path / name).write_bytes((folder / name).read_bytes())
        said = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "auto_map": {"AutoProcessor": "evil.py"}}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
        assert load_encoder(tmp_path).normed == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({**said, "image_std": [0, 1, 1]}))
        with pytest.raises(ValueError, match=r"image_std\[0\] is 0"):
            load_encoder(tmp_path)


class TestRefused:
    @pytest.fixture
    def folder(self, tmp_path):
        save(tmp_path, "Dinov2")
        return tmp_path

    def rewritten(self, folder, **values):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **values}))

    @pytest.mark.parametrize("kind", ["t5", "wav2vec2", "vit_mae", 3, None])
    def test_another_kind_of_model(self, folder, kind):
        self.rewritten(folder, model_type=kind)
        with pytest.raises(ValueError, match=rf"type {kind}, expected DINOv2, DINOv3, SigLIP or CLIP"):
            load_encoder(folder)

    def test_nothing_there(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="does not exist"):
            load_encoder(tmp_path / "none")
        with pytest.raises(ValueError, match=r"found no config\.json, expected"):
            load_encoder(tmp_path)

    def test_sizes_that_no_encoder_has(self, folder):
        self.rewritten(folder, hidden_size=0)
        with pytest.raises(ValueError, match="hidden_size is 0"):
            load_encoder(folder)

    @pytest.mark.parametrize("values", [{"hidden_size": 64}, {"num_hidden_layers": 5}, {"num_hidden_layers": 3}])
    def test_weights_of_other_sizes(self, folder, values):
        self.rewritten(folder, **values)
        with pytest.raises(ValueError, match=r"config\.json\. Download the folder again"):
            load_encoder(folder)

    def test_damaged_weights(self, folder):
        weights = load_file(folder / "model.safetensors")
        weights["embeddings.cls_token"][:] = float("nan")
        save_file(weights, folder / "model.safetensors")
        with pytest.raises(ValueError, match="cls_token` has NaN"):
            load_encoder(folder)
