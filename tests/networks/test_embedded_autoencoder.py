"""The linear autoencoder: sizes from shapes, strict loading, exactness where linearity promises it."""

import pytest
import torch

from comfyui_exemplar import demo
from comfyui_exemplar.files.tensors import read_tensors
from comfyui_exemplar.networks.embedded.autoencoder import LinearAutoencoder, preview_factors


def weights(factor=4, channels=4, neighborhood=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    patch = 3 * factor**2
    return {
        "enc_w": torch.randn(channels, 3, factor, factor, generator=g) * 0.1,
        "enc_b": torch.randn(channels, generator=g) * 0.1,
        "dec_w": torch.randn(patch, channels, neighborhood, neighborhood, generator=g) * 0.01,
        "dec_b": torch.randn(patch, generator=g) * 0.1,
    }


def embedded():
    tensors = read_tensors(demo.model_path())
    vae = {k.removeprefix("vae."): v for k, v in tensors.items() if k.startswith("vae.")}
    return LinearAutoencoder.from_state_dict(vae)


@pytest.mark.parametrize("sizes", [(4, 4, 5), (2, 3, 1), (8, 6, 3)])
def test_sizes_come_from_the_shapes(sizes):
    model = LinearAutoencoder.from_state_dict(weights(*sizes))
    assert (model.factor, model.channels, model.neighborhood) == sizes
    factor, channels, _ = sizes
    latent = model.encode(torch.rand(2, 3, factor * 3, factor * 5, generator=torch.Generator().manual_seed(5)) * 2 - 1)
    assert latent.shape == (2, channels, 3, 5)
    picture = model.decode(latent * 1000)
    assert picture.shape == (2, 3, factor * 3, factor * 5)
    assert picture.min() == -1 and picture.max() == 1


def test_encode_and_decode_follow_the_formulas():
    w = weights(2, 3, 3)
    model = LinearAutoencoder.from_state_dict(w)
    x = torch.rand(1, 3, 4, 4) * 2 - 1
    z = model.encode(x)
    expected = (w["enc_w"][1] * x[0, :, 2:4, 0:2]).sum() + w["enc_b"][1]
    assert torch.allclose(z[0, 1, 1, 0], expected, atol=1e-6)
    y = model.decode(z)
    # color 2, pixel (1, 0) of the patch at (0, 1), whose neighbors beyond the border repeat the border
    rows, columns = [0, 0, 1], [0, 1, 1]
    around = z[0][:, rows][:, :, columns]
    channel = 2 * 4 + 1 * 2 + 0
    expected = (w["dec_w"][channel] * around).sum() + w["dec_b"][channel]
    assert torch.allclose(y[0, 2, 1, 2], expected, atol=1e-6)


def test_preview_is_the_mean_color_of_a_constant_latent():
    model = LinearAutoencoder.from_state_dict(weights())
    factors, bias = preview_factors(model)
    assert factors.shape == (4, 3) and bias.shape == (3,)
    latent = torch.randn(4)
    decoded = model.decode(latent.view(1, 4, 1, 1).expand(1, 4, 6, 6))
    assert decoded.abs().max() < 1  # not clamped, or the comparison would mean nothing
    assert torch.allclose(decoded.mean(dim=(0, 2, 3)), latent @ factors + bias, atol=1e-5)


def test_embedded_round_trip():
    model = embedded()
    y, x = torch.meshgrid(torch.linspace(-1, 1, 96), torch.linspace(-1, 1, 96), indexing="ij")
    picture = torch.stack([x, y, -x * y])[None]
    error = ((model.decode(model.encode(picture)) - picture) / 2).square().mean()
    assert -10 * error.log10() > 40
    gray = model.decode(model.encode(x.expand(1, 3, 96, 96)))
    assert (gray.amax(1) - gray.amin(1)).max() < 1e-4  # gray stays gray


def test_embedded_preview_shows_the_color():
    model = embedded()
    factors, bias = preview_factors(model)
    orange = torch.tensor([0.8, 0.1, -0.6])
    latent = model.encode(orange.view(1, 3, 1, 1).expand(1, 3, 32, 32))[0, :, 4, 4]
    assert torch.allclose(latent @ factors + bias, orange, atol=0.03)


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda w: w.pop("dec_b"), ["missing ['dec_b']"]),
        (lambda w: w.update(extra=torch.zeros(1)), ["unexpected ['extra']"]),
        (lambda w: w.update(dec_w=torch.zeros(48, 5, 5, 5)), ["(48, 5, 5, 5)"]),
        (lambda w: w.update(dec_w=torch.zeros(48, 4, 4, 4)), ["(48, 4, 4, 4)", "odd"]),
        (lambda w: w.update(enc_w=torch.zeros(4, 3, 4)), ["(4, 3, 4)"]),
    ],
)
def test_bad_weights_are_named(damage, words):
    w = weights()
    damage(w)
    with pytest.raises(ValueError) as error:
        LinearAutoencoder.from_state_dict(w)
    assert all(word in str(error.value) for word in words)


def test_bad_sizes():
    with pytest.raises(ValueError, match="odd"):
        LinearAutoencoder(4, 4, 2)
