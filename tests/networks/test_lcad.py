"""L-CAD's gray encoder and guided decoder at small sizes; the numbers are in tests/parity."""

import numpy as np
import pytest
import torch
from PIL import Image

from comfyui_exemplar.networks.embedded.autoencoder import LinearAutoencoder
from comfyui_exemplar.networks.lcad.model import (
    GrayEncoder,
    GuidedDecoder,
    LCADAutoencoder,
    LCADSizes,
    luminance_input,
    official_square,
    working_bytes,
)
from comfyui_exemplar.networks.lcad.weights import read_sizes, take_apart

SIZES = LCADSizes(widths=(32, 64), blocks=1)


@pytest.fixture(scope="module")
def autoencoder():
    torch.manual_seed(0)
    return LCADAutoencoder(GrayEncoder(SIZES), GuidedDecoder(SIZES)).eval().requires_grad_(False)


class TestInput:
    def test_lightness_in_the_published_range(self):
        picture = torch.tensor([0.0, 1.0])[:, None, None, None].expand(2, 4, 4, 3)
        found = luminance_input(picture)
        assert found.shape == (2, 3, 4, 4)
        # white is L 100, and 100 / 127.5 - 1 is far from 1
        assert torch.allclose(found[:, 0, 0, 0], torch.tensor([-1.0, 100 / 127.5 - 1]), atol=1e-4)

    def test_colors_of_one_lightness_are_one_input(self):
        red = torch.tensor([0.8, 0.1, 0.1]).expand(1, 2, 2, 3)
        gray = luminance_input(red)
        assert torch.equal(gray[:, :1].expand(-1, 3, -1, -1), gray)

    def test_square_is_pillows(self):
        picture = torch.rand(2, 30, 50, 3, generator=torch.Generator().manual_seed(1))
        found = official_square(picture, 16)
        assert found.shape == (2, 16, 16, 3)
        one = Image.fromarray((picture[1] * 255).round().byte().numpy()).resize((16, 16), Image.Resampling.BILINEAR)
        assert np.array_equal((found[1] * 255).round().byte().numpy(), np.asarray(one))


class TestNetworks:
    @pytest.mark.parametrize("size", [(16, 16), (16, 40), (30, 6)])
    def test_any_size_and_batch(self, autoencoder, size):
        image = torch.rand(2, *size, 3, generator=torch.Generator().manual_seed(2))
        maps = autoencoder.encode(image)
        assert len(maps) == SIZES.maps == 4
        assert maps[0].shape == (2, 32, *size) and maps[-1].shape == (2, 64, size[0] // 2, size[1] // 2)
        latent = torch.randn(2, 4, size[0] // 2, size[1] // 2, generator=torch.Generator().manual_seed(3))
        both = autoencoder.decode(latent, maps)
        assert both.shape == (2, *size, 3)
        for row in range(2):
            alone = autoencoder.decode(latent[row : row + 1], [each[row : row + 1] for each in maps])
            assert torch.allclose(alone[0], both[row], atol=1e-5)

    def test_every_map_guides(self, autoencoder):
        image = torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(4))
        latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
        maps = autoencoder.encode(image)
        whole = autoencoder(latent, maps)
        for index in range(len(maps)):
            less = [each * (i != index) for i, each in enumerate(maps)]
            assert float((autoencoder(latent, less) - whole).abs().max()) > 1e-3, index

    def test_maps_of_another_size_are_refused(self, autoencoder):
        maps = autoencoder.encode(torch.zeros(1, 16, 16, 3))
        with pytest.raises(ValueError, match=r"needs 4, the last one \(64, 4, 4\)"):
            autoencoder(torch.zeros(1, 4, 4, 4), maps)
        with pytest.raises(ValueError, match="given 3 gray maps"):
            autoencoder(torch.zeros(1, 4, 8, 8), maps[:-1])
        with pytest.raises(ValueError, match="15 x 16 pixels; both sides must be multiples of 2"):
            autoencoder.encode(torch.zeros(1, 16, 15, 3))

    def test_over_a_linear_autoencoder_lightness_is_not_the_latents(self):
        """With a base, colors come from chroma alone, whatever the latent says of lightness."""
        torch.manual_seed(0)
        sizes = LCADSizes(widths=(8, 8, 8), blocks=1, groups=0)
        base = LinearAutoencoder(4, 4, 3)
        for name, buffer in base.named_buffers():
            torch.nn.init.normal_(buffer, std=0.1 if name == "dec_w" else 0.0)
        net = LCADAutoencoder(GrayEncoder(sizes), GuidedDecoder(sizes), base).requires_grad_(False)
        for parameter in net.decoder.parameters():
            parameter.zero_()
        latent = torch.randn(1, 4, 4, 4)
        plain = net(latent, None)
        assert torch.equal(net(latent * torch.tensor([3.0, 1, 1, -2])[:, None, None], None), plain)
        assert not torch.equal(net(latent * torch.tensor([1.0, 2, 1, 1])[:, None, None], None), plain)

    def test_memory_grows_with_the_picture(self):
        assert working_bytes(SIZES, 64, 64, 4) == 4 * working_bytes(SIZES, 32, 32, 4) > 0


class TestWeights:
    def names(self):
        encoder, decoder = GrayEncoder(SIZES), GuidedDecoder(SIZES)
        made = {f"first_stage_model.g_encoder.{name}": value for name, value in encoder.state_dict().items()}
        for name, value in decoder.state_dict().items():
            inside = "" if name.startswith("post_quant_conv") else "decoder."
            made[f"first_stage_model.{inside}{name}"] = value
        made["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(32, 68, 3, 3)
        return made

    def test_sizes(self):
        assert take_apart(self.names()).sizes == SIZES

    def test_what_tells_a_size_is_missing(self):
        with pytest.raises(ValueError, match=r"missing \['first_stage_model\.decoder\.conv_in\.weight'"):
            read_sizes(take_apart(self.names()).gray, {})

    @pytest.mark.parametrize(
        "found, said",
        [
            ({}, "no tensors"),
            ({"lora_up.weight": torch.zeros(1)}, "lora_up.weight"),
        ],
    )
    def test_other_files(self, found, said):
        with pytest.raises(ValueError, match=said):
            take_apart(found)
