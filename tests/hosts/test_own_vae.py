"""Another autoencoder in the place of a model's own: TAESD as diffusers has it, and what is refused."""

import json

import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file, save_file

from comfyui_exemplar.files.pictures import load_picture
from comfyui_exemplar.hosts.diffusers.checkpoint import load_standalone

from ..fixtures.checkpoints import save_folder, tiny_vae
from ..fixtures.pictures import run, shapes

SMALL = {
    "encoder_block_out_channels": (8, 8),
    "decoder_block_out_channels": (8, 8),
    "num_encoder_blocks": (1, 1),
    "num_decoder_blocks": (1, 1),
}


def taesd(**changed):
    torch.manual_seed(4)
    return AutoencoderTiny(**{**SMALL, **changed}).eval().requires_grad_(False)


@pytest.fixture
def folder(tiny, tmp_path):
    """A Stable Diffusion folder of two pixels a latent, and beside it ``taesd``."""
    unet, vae, text, _ = tiny.sources("sd1")
    save_folder(tmp_path / "sd", unet, vae, text)
    taesd().save_pretrained(tmp_path / "taesd")
    return tmp_path


def said(folder, **changed):
    """Change what the VAE's config.json says."""
    file = folder / "taesd" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))


class TestRead:
    @pytest.mark.parametrize("place", ["taesd", "taesd/diffusion_pytorch_model.safetensors"])
    def test_a_folder_or_a_file(self, folder, place):
        said(folder, scaling_factor=1.5)
        model, own, theirs = (
            load_standalone(folder / "sd", vae=folder / place),
            load_standalone(folder / "sd"),
            taesd(),
        )
        picture = torch.rand(2, 16, 24, 3)
        latent = model.vae.encode(picture)
        torch.testing.assert_close(latent, theirs.encode(picture.movedim(-1, 1) * 2 - 1).latents * 1.5)
        assert latent.shape == (2, 4, 8, 12) and latent.dtype == torch.float32
        decoded = (theirs.decode(latent / 1.5).sample / 2 + 0.5).clamp(0, 1).movedim(1, -1)
        torch.testing.assert_close(model.vae.decode(latent), decoded)
        assert (model.vae.factor, model.vae.channels) == (2, 4)
        assert model.fingerprint == own.fingerprint
        assert not torch.allclose(own.vae.encode(picture), latent)

    def test_a_file_alone_has_taesds_sizes(self, folder):
        """Its eight pixels a latent are not this model's: that far it was read."""
        torch.manual_seed(5)
        save_file(AutoencoderTiny().state_dict(), folder / "alone.safetensors")
        with pytest.raises(ValueError, match=r"alone\.safetensors: found a VAE of 4 channels and 8 pixels a latent"):
            load_standalone(folder / "sd", vae=folder / "alone.safetensors")

    def test_an_ordinary_one(self, folder):
        vae = tiny_vae()
        vae.save_pretrained(folder / "kl")
        model = load_standalone(folder / "sd", vae=folder / "kl")
        assert all(torch.equal(w, vae.state_dict()[name]) for name, w in model.vae.vae.state_dict().items())

    def test_half_precision_leaves_it_whole(self, folder):
        model = load_standalone(folder / "sd", vae=folder / "taesd", dtype=torch.float16)
        assert model.vae.vae.dtype == torch.float32 and model.unet.dtype == torch.float16


class TestRefused:
    @pytest.mark.parametrize(
        "changed, match",
        [
            ({"_class_name": "AutoencoderDC"}, "is a `AutoencoderDC`, expected AutoencoderTiny or AutoencoderKL"),
            ({"_class_name": ["AutoencoderTiny"]}, "expected AutoencoderTiny or AutoencoderKL"),
            ({"_class_name": None}, "expected AutoencoderTiny or AutoencoderKL"),
            ({"encoder_block_out_channels": [8, 16]}, "expected one width"),
            ({"num_decoder_blocks": [1, 1, 1]}, "expected one width"),
            ({"num_encoder_blocks": [1, 10**9]}, "num_encoder_blocks"),
            ({"latent_channels": 10**9}, "latent_channels"),
            ({"act_fn": "os.system"}, "act_fn"),
            ({"shift_factor": 0.1}, "shift_factor is `0.1`, expected 0.0"),
            ({"latent_channels": 16}, "size|shape"),
            ({"encoder_block_out_channels": [16, 16]}, "size|shape"),
        ],
    )
    def test_what_the_configuration_says(self, folder, changed, match):
        said(folder, **changed)
        with pytest.raises(ValueError, match=match) as caught:
            load_standalone(folder / "sd", vae=folder / "taesd")
        assert "taesd" in str(caught.value) and "\n" not in str(caught.value)

    def test_weights_that_are_not_all_there_or_not_finite(self, folder):
        file = folder / "taesd" / "diffusion_pytorch_model.safetensors"
        weights = load_file(file)
        for change in ({"decoder.layers.0.bias": None}, {"encoder.layers.0.bias": torch.full((8,), float("nan"))}):
            made = {name: w for name, w in (weights | change).items() if w is not None}
            save_file(made, file)
            with pytest.raises(ValueError, match="taesd"):
                load_standalone(folder / "sd", vae=folder / "taesd")

    def test_other_files(self, folder):
        with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
            load_standalone(folder / "sd", vae=folder / "nowhere")
        with pytest.raises(ValueError, match=r"has no config\.json, expected a folder of AutoencoderTiny or"):
            load_standalone(folder / "sd", vae=folder / "sd")
        save_file({"x": torch.zeros(2)}, folder / "x.safetensors")
        with pytest.raises(ValueError, match=r"x\.safetensors holds .*, expected AutoencoderTiny"):
            load_standalone(folder / "sd", vae=folder / "x.safetensors")


class TestCommand:
    def test_colorize_by_either_method(self, folder, monkeypatch):
        monkeypatch.chdir(folder)
        shapes(48, 40, "L").save("gray.png")
        shapes(64, 64).save("reference.png")
        quick = ("--model", "sd", "--resolution", "32", "--no-sheet")
        for method in (("memory",), ("attention", "--depth", "1", "--passes", "1")):
            asked = ("colorize", "gray.png", "--reference", "reference.png", "--method", *method, *quick)
            assert run(*asked, "--output", "own.png") == 0
            assert run(*asked, "--vae", "taesd", "--output", "small.png") == 0
            assert not torch.equal(load_picture("own.png"), load_picture("small.png"))

    def test_what_is_told(self, folder, monkeypatch, capsys):
        monkeypatch.chdir(folder)
        shapes(48, 40, "L").save("gray.png")
        shapes(64, 64).save("reference.png")
        asked = ("colorize", "gray.png", "--reference", "reference.png", "--model", "sd", "--method", "memory")
        assert run(*asked, "--vae", "nowhere") != 0
        assert "--vae" in capsys.readouterr().err
        with_encoder = ("colorize", "gray.png", "--reference", "reference.png", "--encoder", "sd", "--vae", "taesd")
        assert run(*with_encoder) != 0
        assert "--vae is about a diffusion model" in capsys.readouterr().err
        assert not (folder / "gray_colored.png").exists()
