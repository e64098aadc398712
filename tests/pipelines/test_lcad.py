"""Color by words around a model that is not one: sizes, lightness, schedule, bad input."""

import dataclasses

import pytest
import torch

from comfyui_exemplar.attention.instances import InstanceSettings
from comfyui_exemplar.color import luminance
from comfyui_exemplar.diffusion.schedule import sampling_sigmas
from comfyui_exemplar.pipelines.lcad import ConditionSettings, DecodeSettings, LCADSettings, describe, finish, prepare

SETTINGS = LCADSettings(steps=4, resolution=64)


class Host:
    """Stands in for L-CAD: the color is red where the prompt says so, else blue. Notes what it is asked."""

    sigma_table = torch.linspace(0.03, 14, 1000)
    channels, factor, multiple, recommended = 4, 8, 16, {"steps": 3, "cfg": 1.5, "resolution": 32}

    def __init__(self):
        self.encoded, self.sampled = [], []

    def encode(self, image):
        self.encoded.append(image)
        return (image, torch.ones(1, 6, *(side // 8 for side in image.shape[1:3])))

    def phrase_places(self, prompt, phrases):
        words = prompt.split()
        return [(words.index(phrase),) for phrase in phrases], len(words)

    def sample(self, x, sigmas, gray, prompt, negative, guidance, instances=()):
        self.sampled.append((x, sigmas, gray, prompt, negative, guidance))
        self.instances = instances
        return torch.full_like(x, 1.0 if "red" in prompt else -1.0) * (1 + float(sigmas[-1]) ** 2) ** 0.5

    def decode(self, latent, maps):
        assert torch.allclose(latent.abs(), torch.ones_like(latent))  # at sigma 0, whatever the convention
        color = torch.tensor([0.8, 0.4, 0.4] if latent[0, 0, 0, 0] > 0 else [0.4, 0.4, 0.8])
        return color.expand(len(latent), *maps[0].shape[1:3], 3)


def picture(height=48, width=72):
    rough = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(rough, size=(height, width), mode="bilinear")
    return (0.4 + 0.2 * smooth).movedim(1, -1).repeat(1, 1, 1, 3)


@pytest.mark.parametrize("size", [(48, 72), (33, 57), (200, 30)])
@pytest.mark.parametrize("convention", ["consistent", "official"])
def test_own_size_and_lightness(size, convention):
    host, image = Host(), picture(*size)
    found = describe(host, image, "a red car", dataclasses.replace(SETTINGS, convention=convention))
    assert found.shape == image.shape
    assert float((luminance(found) - luminance(image)).abs().max()) < 0.05
    assert float((found[..., 0] - found[..., 2]).min()) > 0.05
    (encoded,) = host.encoded  # once
    ((x, sigmas, gray, *_),) = host.sampled
    assert all(side % 16 == 0 for side in encoded.shape[1:3])
    assert x.shape == (1, 4, encoded.shape[1] // 8, encoded.shape[2] // 8) and gray.shape[-2:] == x.shape[-2:]
    assert torch.equal(sigmas, sampling_sigmas(host.sigma_table, 4, convention))


def test_words_and_seed_reach_the_sampler():
    host, image = Host(), picture()
    describe(host, image, "a red car", SETTINGS, negative="gray")
    describe(host, image, "", dataclasses.replace(SETTINGS, seed=1, cfg=2.0))
    describe(host, image, "", dataclasses.replace(SETTINGS, seed=1))
    first, second, third = host.sampled
    assert first[3:] == ("a red car", "gray", 4.5) and second[3:] == ("", "", 2.0)
    assert not torch.equal(first[0], second[0]) and torch.equal(second[0], third[0])
    # noise of the first level
    assert abs(float(first[0].std() / first[1][0]) - 1) < 0.2


def test_the_file_recommends():
    """Nothing chosen: the file's own settings."""
    host = Host()
    describe(host, picture(), "a red car")
    ((x, sigmas, *_, guidance),) = host.sampled
    assert len(sigmas) == 4 and guidance == 1.5 and x.shape[-2] * x.shape[-1] <= 24


@pytest.mark.parametrize("percents, steps", [((0, 1), (0, 1)), ((0.25, 0.5), (0.25, 0.5)), ((1, 1), (1, 1))])
def test_shares_of_the_sampling(percents, steps):
    """Shares become levels of the model's schedule, as ComfyUI has them: by timesteps."""
    host = Host()
    drawing = InstanceSettings(start_percent=percents[0], end_percent=percents[1])
    regions = [("car", torch.ones(1, 48, 72))]
    describe(host, picture(), "a red car", SETTINGS, regions=regions, drawing=drawing)
    (instance,) = host.instances
    level = {0: float("inf"), 1: 0.0}
    table = host.sigma_table
    first, last = (level.get(share, float(table[round((1 - share) * 999)])) for share in steps)
    assert instance.settings.sigma_start == pytest.approx(first, rel=2e-3)
    assert instance.settings.sigma_end == pytest.approx(last, rel=2e-3)


def test_regions_reach_the_sampler():
    host, image = Host(), picture()
    mask = torch.ones(1, 48, 72)
    describe(host, image, "a red car", SETTINGS, regions=[("car", mask)], drawing=InstanceSettings(strength=2.0))
    (instance,) = host.instances
    assert (instance.phrase, instance.tokens, instance.length, instance.settings.strength) == ("car", (2,), 3, 2.0)
    assert torch.equal(instance.masks, mask)
    host = Host()
    with pytest.raises(ValueError, match=r"masks: found nothing above one half in that of 'car'"):
        describe(host, image, "a red car", SETTINGS, regions=[("car", torch.zeros(1, 48, 72))])
    assert not host.encoded  # before the networks run


def test_shapes():
    image = picture(50, 100)
    assert prepare(image, ConditionSettings(64), 16, 8).shape[1:3] == (48, 96)
    assert prepare(image, ConditionSettings(0), 16, 8).shape[1:3] == (48, 96)
    assert prepare(image, ConditionSettings(64, "official square"), 16, 8).shape[1:3] == (64, 64)


def test_lightness_is_mixed():
    image, decoded = picture(), torch.rand(2, 24, 36, 3, generator=torch.Generator().manual_seed(1))
    free, exact, half = (finish(decoded, image, DecodeSettings(share)) for share in (0.0, 1.0, 0.5))
    assert free.shape == exact.shape == (2, 48, 72, 3)
    assert torch.allclose(half, (free + exact) / 2, atol=1e-6)
    assert torch.equal(finish(decoded, decoded, DecodeSettings(0.0)), decoded)
    # picture i is lit by gray picture i modulo their number
    pair = torch.cat([image, 1 - image])
    four = finish(torch.cat([decoded, decoded]), pair, DecodeSettings())
    for row in range(4):
        assert torch.allclose(luminance(four[row : row + 1]), luminance(pair[row % 2][None]), atol=0.05)


@pytest.mark.parametrize(
    "values, said",
    [
        ({"steps": 0}, "steps is 0"),
        ({"shape": "round"}, "shape is 'round'; expected one of aspect, official square"),
        ({"convention": "mine"}, "convention is 'mine'"),
        ({"exact_luminance": 2.0}, "exact_luminance is 2.0"),
        ({"resolution": -1}, "resolution is -1"),
    ],
)
def test_bad_settings(values, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(SETTINGS, **values)


def test_bad_pictures():
    host = Host()
    with pytest.raises(ValueError, match="image: found NaN"):
        describe(host, torch.full((1, 8, 8, 3), float("nan")), "x", SETTINGS)
    assert not host.encoded
