"""CLIP_VISION as a source of features of color memories: DINOv2, DINOv3, SigLIP, SigLIP 2 and CLIP."""

import dataclasses
from types import SimpleNamespace

import comfy.latent_formats
import comfy.sd
import comfy.taesd.taesd
import pytest
import torch
from safetensors.torch import load_file

from comfyui_exemplar.color import desaturate
from comfyui_exemplar.hosts.comfy.encoders import ComfyEncoder, features_of, memory_recommended
from comfyui_exemplar.hosts.comfy.fits import check_vae
from comfyui_exemplar.hosts.comfy.memory import out_of_memory
from comfyui_exemplar.hosts.comfy.model import file_name
from comfyui_exemplar.hosts.diffusers.encoder import load_encoder
from comfyui_exemplar.pipelines.encoder_features import EncoderFeatures, alike
from comfyui_exemplar.pipelines.memory import color_by_memory, color_in_batches, write_references
from comfyui_exemplar.pipelines.memory_settings import FeatureSettings, MemorySettings, WritingSettings

from ...fixtures.encoders import save
from .encoders import KINDS, clip_vision
from .models import tiny

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


def test_any_size_and_each_picture_of_a_batch(encoder):
    network = features_of(encoder, dataclasses.replace(SETTINGS, resolution=0, layers="block.1-2"))
    both = torch.cat([pictures(1, 40, 72), pictures(1, 40, 72, seed=2)])
    found, alone = network.features(both), network.features(both[1:])
    assert found.grids == ((5, 9),) * 2 and [s.name for s in found.spaces] == ["block.1", "block.2"]
    for one, other in zip(found.keys, alone.keys, strict=True):
        torch.testing.assert_close(one[1:], other, atol=1e-4, rtol=1e-4)
    long = features_of(encoder, SETTINGS).features(pictures(1, 9, 700))
    assert long.grids == ((1, 35),) and long.keys[0].isfinite().all()


def test_rows_and_columns_are_not_mixed_up(encoder):
    """What is new at the top right is seen there most."""
    image = torch.full((1, 40, 72, 3), 0.2)
    image[:, :8, 64:] = 0.9  # the patch at the top right
    keys = features_of(encoder, dataclasses.replace(SETTINGS, resolution=0)).features(image).keys[0][0].view(5, 9, -1)
    plain = torch.full((1, 40, 72, 3), 0.2)
    same = features_of(encoder, dataclasses.replace(SETTINGS, resolution=0)).features(plain).keys[0][0].view(5, 9, -1)
    moved = (keys - same).norm(dim=-1)
    assert moved.flatten().argmax() == 8


def test_the_clip_vision_stays_as_it_was(encoder):
    gray = pictures(1, 40, 72)

    def own():
        return encoder.model(pixel_values=pictures().movedim(-1, 1))[0]

    before, names = own(), sorted(encoder.get_sd())
    network = features_of(encoder, SETTINGS)
    network.features(gray)
    failing = network.encoder.blocks[3].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        network.features(gray)
    failing.remove()
    assert torch.equal(own(), before) and sorted(encoder.get_sd()) == names
    assert not any(module._forward_hooks for module in encoder.model.modules())


def test_memory_that_runs_out_halves(encoder, monkeypatch):
    inputs = pictures(5, 32, 48)
    network = features_of(encoder, SETTINGS)
    memory = write_references(network, torch.rand(1, 32, 48, 3), WritingSettings(SETTINGS))
    asking = MemorySettings(SETTINGS, batch=5)
    expected = color_by_memory(network, inputs, memory, asking).images
    rows, tokens = [], ComfyEncoder.tokens

    def scarce(self, pixels, blocks):
        rows.append(len(pixels))
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return tokens(self, pixels, blocks)

    monkeypatch.setattr(ComfyEncoder, "tokens", scarce)
    found = torch.cat([part.images for part in color_in_batches(network, inputs, memory, asking, out_of_memory)])
    assert rows == [5, 2, 2, 1]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("dtype", "least"), [(torch.float16, 0.999), (torch.bfloat16, 0.97)])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision(kind, dtype, least):
    """ComfyUI keeps weights in half on a GPU, and computes in full."""
    full, half = clip_vision(kind), clip_vision(kind)
    with torch.inference_mode(False):
        half.model.to(dtype)
    one, other = (features_of(each, SETTINGS).features(pictures(1, 40, 56)).keys[0] for each in (full, half))
    assert other.dtype == torch.float32 and torch.cosine_similarity(one, other, dim=-1).min() > least


@pytest.mark.parametrize(
    ("kind", "named", "prefix"),
    [
        ("CLIPVision", "clip_vision_model", "vision_model."),
        ("SiglipVision", "siglip_vision_model", "vision_model."),
        ("Dinov2", "dinov2", ""),
        ("DINOv3ViT", "dinov3", ""),
    ],
)
def test_the_same_as_without_comfyui(tmp_path, kind, named, prefix):
    """So a memory that one program wrote serves the other."""
    sizes = {"intermediate_size": 128, "hidden_act": "gelu", "layer_norm_eps": 1e-5}
    with torch.inference_mode(False):
        save(tmp_path, kind, **sizes)
        alone = load_encoder(tmp_path)
    mean, std = alone.normed
    encoder = clip_vision(named, **sizes, image_mean=list(mean), image_std=list(std))
    weights = {f"{prefix}{name}": t for name, t in load_file(tmp_path / "model.safetensors").items()}
    with torch.inference_mode(False):
        encoder.model.float()  # ComfyUI keeps half of it
        missing, beyond = encoder.load_sd({n: t for n, t in weights.items() if ".head." not in n})
    assert not missing and not beyond
    network, other = features_of(encoder, SETTINGS), EncoderFeatures(alone, SETTINGS)
    assert network.fingerprint == other.fingerprint and network.spaces == other.spaces
    assert memory_recommended(encoder)["resolution"] == 256
    # DINOv2's positions are enlarged by ComfyUI as its authors do it, by transformers in the plain way
    apart = 1e-4 if named != "dinov2" else 0.05
    for size in ((32, 32), (40, 72)):
        own = dataclasses.replace(SETTINGS, resolution=0)
        one, two = (dataclasses.replace(n, settings=own).features(pictures(1, *size)).keys[0] for n in (network, other))
        assert (one - two).norm(dim=-1).max() < apart * one.norm(dim=-1).mean(), size


def test_a_picture_is_colored_by_its_own_colors(encoder):
    settings = FeatureSettings(resolution=128, context=0.0)
    image = torch.zeros(1, 64, 64, 3)
    image[:, :, :32], image[:, :, 32:] = torch.tensor([0.8, 0.2, 0.2]), torch.tensor([0.1, 0.3, 0.9])
    image = (image + 0.1 * torch.rand(image.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    network = features_of(encoder, settings)
    memory = write_references(network, image, WritingSettings(settings), maker=network.name)
    result = color_by_memory(network, desaturate(image), memory, MemorySettings(settings, temperature_fine=0.1))
    off = (result.images - image).abs().mean(-1)[0]
    assert off[:, :28].mean() < 0.1 and off[:, 36:].mean() < 0.1  # grayed it would be off by 0.2


class TestRefused:
    @pytest.mark.parametrize(
        ("found", "said"),
        [
            (None, "found nothing"),
            (type("AudioEncoderModel", (), {"encode_audio": None, "model_type": "wav2vec2"})(), "type wav2vec2"),
            (type("T5", (), {"tokenize": None})(), "found T5"),
            (SimpleNamespace(model_type="dinov9", encode_image=None), "type dinov9"),
            (SimpleNamespace(model_type="dinov2"), "type dinov2"),
        ],
    )
    def test_what_gives_no_features_of_places(self, found, said):
        for ask in (lambda: features_of(found, SETTINGS, node="Color Memory"), lambda: memory_recommended(found)):
            with pytest.raises(
                ValueError, match=rf"{said}.*, expected a CLIP_VISION of DINOv2, DINOv3, SigLIP or CLIP"
            ):
                ask()

    def test_a_memory_of_another_encoder(self, encoder):
        network = features_of(encoder, SETTINGS)
        other = features_of(clip_vision(encoder.model_type, seed=5), SETTINGS)
        memory = write_references(other, torch.rand(1, 32, 32, 3), WritingSettings(SETTINGS), maker=other.name)
        with pytest.raises(ValueError, match=rf"model {other.name} .*, expected one of .*{network.fingerprint}"):
            color_by_memory(network, pictures(), memory, MemorySettings(SETTINGS))

    def test_layers_of_a_unet(self, encoder):
        with pytest.raises(ValueError, match=r"layers: found 'output\.8', expected match or .*block\.0-3"):
            features_of(encoder, dataclasses.replace(SETTINGS, layers="output.8"))


def test_a_memory_by_a_tiny_vae():
    """TAESD: nothing is decoded, so all that is asked of a VAE is latents."""
    with torch.inference_mode(False), torch.no_grad():
        small = comfy.taesd.taesd.TAESD()
        random = torch.Generator().manual_seed(2)
        weights = {
            name: torch.randn(t.shape, generator=random) / max(1, t[0].numel() if t.ndim else 1) ** 0.5
            for name, t in small.state_dict().items()
        }
    weights |= {"vae_scale": torch.tensor(0.18215), "vae_shift": torch.tensor(0.0)}
    model, vae = tiny("sd1"), comfy.sd.VAE(sd=weights)
    check_vae(vae, model, "Color Memory")
    vae.decode = None
    empty = [[torch.zeros(1, 77, 64), {}]]
    settings = FeatureSettings(resolution=64, context=0.0)
    network = features_of(model, settings, vae=vae, conditioning=empty)
    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(3))
    memory = write_references(network, image, WritingSettings(settings))
    result = color_by_memory(network, desaturate(image), memory, MemorySettings(settings))
    assert len(memory) == 64 and result.images.shape == image.shape and result.images.isfinite().all()
    assert (result.images - desaturate(image)).abs().max() > 0.01


def test_a_model_is_named_by_its_file(embedded):
    model, *_ = embedded
    assert file_name(model) == "model" and file_name(tiny("sd1")) == ""
    network = features_of(model, FeatureSettings(), vae=embedded[2], conditioning=embedded[3])
    assert network.name == "model"
