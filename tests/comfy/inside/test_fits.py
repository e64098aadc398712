"""VAEs, LATENTs and noise levels that are not the MODEL's: one line before any work."""

import pytest
import torch

from comfyui_exemplar.hosts.comfy import fits
from nodes import VAELoader

from .models import prompt, tiny


@pytest.fixture(scope="module")
def pixel_space():
    """What Load VAE gives for "pixel_space"."""
    with torch.inference_mode():
        return VAELoader().load_vae("pixel_space")[0]


def none_of_it(**changes):
    """A VAE of Stable Diffusion's kind but for what is said, that must not be asked to do anything."""

    class Other:
        first_stage_model, latent_channels, latent_dim, factor = object(), 4, 2, 8

        def spacial_compression_encode(self):
            return self.factor

        def encode(self, *_):
            raise AssertionError("work has begun")

        decode = encode

    other = Other()
    for name, value in changes.items():
        setattr(other, name, value)
    return other


OTHERS = {
    "SD3's": (dict(latent_channels=16), r"found a VAE of 16 channels at 8 pixels a latent"),
    "another factor": (dict(factor=16, latent_channels=32), "of 32 channels at 16 pixels"),
    "for video": (dict(latent_channels=16, latent_dim=3), "for video, of 16 channels"),
    "for sound": (dict(latent_channels=64, latent_dim=1), "for sound"),
    "empty": (dict(first_stage_model=None), "a VAE without weights"),
}


def with_vae(nodes, embedded, scene, node, vae):
    model, clip, _, empty = embedded
    gray, color = scene
    inputs = {
        "ExemplarColorize": dict(conditioning=empty, image=gray, reference=color, depth=2, steps=4),
        "ExemplarTranslate": dict(clip=clip, image=color, reference=color, updates=1, steps=2, resolution=32),
        "ExemplarConceptInversion": dict(clip=clip, reference=color, name="thing", updates=1, resolution=32),
        "ExemplarLatentLuminance": dict(image=gray, strength=0.5),
    }[node]
    return nodes(node, model=model, vae=vae, **inputs)


NODES = ["ExemplarColorize", "ExemplarTranslate", "ExemplarConceptInversion", "ExemplarLatentLuminance"]


@pytest.mark.parametrize("node", NODES)
class TestVAE:
    @pytest.mark.parametrize("other", list(OTHERS))
    def test_another_models(self, nodes, embedded, scene, node, other):
        changes, said = OTHERS[other]
        with pytest.raises(ValueError, match=f": vae: .*{said}") as error:
            with_vae(nodes, embedded, scene, node, none_of_it(**changes))
        if other != "empty":
            assert "expected one of 4 channels at 4 pixels a latent for this MODEL" in str(error.value)
        assert "\n" not in str(error.value)

    def test_pixel_space(self, nodes, embedded, scene, pixel_space, node):
        with pytest.raises(ValueError, match=r"vae: found a VAE of 3 channels at 1 pixels a latent.*4 channels at 4"):
            with_vae(nodes, embedded, scene, node, pixel_space)


def test_the_models_own_fit(embedded, nodes):
    model, _, vae, _ = embedded
    fits.check_vae(vae, model, "A node")
    fits.check_vae(none_of_it(), tiny("sd1"), "A node")
    fits.check_vae(none_of_it(), tiny("sdxl"), "A node")


def test_a_latent_that_the_vae_does_not_decode(nodes, embedded, scene):
    latent = {"samples": torch.zeros(1, 16, 8, 8)}
    with pytest.raises(ValueError, match="latent: found a latent of 16 channels, expected 4, as the VAE"):
        nodes("ExemplarLatentLuminance", vae=embedded[2], image=scene[0], latent=latent, strength=0.5)


@pytest.mark.parametrize("channels", [3, 8, 16])
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_latent_of_another_model(nodes, family, channels):
    with pytest.raises(ValueError, match=f"latent: found a latent of {channels} channels, expected 4 for this MODEL"):
        nodes(
            "ExemplarDDIMInversion",
            model=tiny(family),
            conditioning=prompt(family),
            latent={"samples": torch.randn(1, channels, 8, 8)},
            depth=2,
            steps=4,
        )


def test_a_latent_of_a_video(nodes):
    with pytest.raises(ValueError, match=r"latent.*expected a picture's latent"):
        nodes(
            "ExemplarDDIMInversion",
            model=tiny("sd1"),
            conditioning=prompt("sd1"),
            latent={"samples": torch.randn(1, 4, 3, 8, 8)},
            depth=2,
            steps=4,
        )


class TestFewLevels:
    """Model Sampling Discrete (lcm) leaves 50 noise levels."""

    @pytest.fixture
    def few(self):
        from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

        return ModelSamplingDiscrete().patch(tiny("sd1"), "lcm", False)[0]

    def invert(self, nodes, model, steps):
        latent = {"samples": torch.randn(1, 4, 8, 8)}
        return nodes(
            "ExemplarDDIMInversion", model=model, conditioning=prompt("sd1"), latent=latent, depth=2, steps=steps
        )

    @pytest.mark.parametrize("steps", [50, 200])
    def test_more_steps_than_levels(self, nodes, few, steps):
        said = (
            rf"steps is {steps}, but this MODEL has 50 noise levels only.*Model Sampling Discrete \(lcm\).*lower steps"
        )
        with pytest.raises(ValueError, match=said):
            self.invert(nodes, few, steps)

    def test_fewer(self, nodes, few):
        _, noised, sigmas, _ = self.invert(nodes, few, 10)
        assert bool(torch.isfinite(noised["samples"]).all()) and bool((sigmas.diff() < 0).all())
