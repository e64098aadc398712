"""DDColor's network against the published one's numbers, map by map, on weights made by the set's recipe.

Norms are folded when weights are read, so some of our maps are the recorded ones before an affine step; that step is
undone here, with the recipe's own numbers.
"""

import re

import pytest
import torch

from comfyui_exemplar.networks.ddcolor.load import build, variant_name
from comfyui_exemplar.networks.ddcolor.model import sine_position
from comfyui_exemplar.networks.ddcolor.weights import _batch_norm, _spectral, published_shapes, read_sizes

from .ddcolor_set import checksum

#: Largest errors that the set's description suggests to allow.
MAPS, QUERIES, EMBEDDING, CHROMA = 1e-4, 1e-4, 5e-4, 2e-3

LARGE = "convnext_l"


def close(found, expected, tolerance, what):
    assert found.shape == expected.shape, what
    error = float((found - expected).abs().max())
    assert error <= tolerance, f"{what}: {error:.3g} > {tolerance:.3g}"


class Run:
    """One network on the recorded input, with everything that it computes on the way."""

    WANTED = r"encoder|encoder\.stages\.\d|pixel_layers\.\d(\.enlarge)?|color|color\.layers\.\d+(\.\w+_norm)?"

    @torch.no_grad()
    def __init__(self, parity, name, weights):
        self.weights, self.golden = weights, parity.file(f"golden_{name}")
        assert list(self.golden["input"].shape) == parity.meta["model_inputs"][name]
        self.network, self.variant = build(weights)
        self.seen = {}
        modules = dict(self.network.named_modules())
        wanted = [name for name in modules if re.fullmatch(self.WANTED, name)]
        handles = [modules[n].register_forward_hook(self._keep(n)) for n in wanted]
        self.chroma = self.network(self.golden["input"])
        for handle in handles:
            handle.remove()

    def _keep(self, name):
        def hook(_module, _inputs, output):
            self.seen[name] = output

        return hook

    @torch.no_grad()
    def last_unit(self, weights):
        """The last unit's channels under weights: (B, K, C), each picture's own, or (K, C) for all -> (B, K, H, W)."""
        x = self.seen["pixel_layers.2"]
        return self.network.enlarge(x, weights.expand(len(x), *weights.shape[-2:]))

    def pixels(self, i):
        """Recorded P_i from ours, which lacks the batch norm that follows the ReLU."""
        scale, shift = (t[:, None, None] for t in _batch_norm(self.weights, f"decoder.layers.{i}.conv.2"))
        return self.seen[f"pixel_layers.{i}"] * scale + shift

    def encoded(self, i):
        """Recorded E_i from ours, which has the batch norm of the layer that it joins in it."""
        found = self.seen["encoder"][i]
        if i == 3:
            return found
        scale, shift = (t[:, None, None] for t in _batch_norm(self.weights, f"decoder.layers.{2 - i}.bn"))
        return (found - shift) / scale

    def named(self, pattern):
        """Recorded tensors whose name fits: (match, tensor)."""
        found = [(re.fullmatch(pattern, name), tensor) for name, tensor in self.golden.items()]
        found = [(match, tensor) for match, tensor in found if match]
        assert found, f"the set records nothing like {pattern}"
        return found


@pytest.fixture(scope="module")
def tiny(ddcolor_set, ddcolor_tiny_weights):
    return Run(ddcolor_set, "convnext_t", ddcolor_tiny_weights)


@pytest.mark.parametrize("variant", ["modelscope", "paper", "artistic", "paper_tiny"])
def test_keys_and_shapes(ddcolor_set, variant):
    listed = ddcolor_set.json(f"keys_official_ddcolor_{variant}")
    sizes = read_sizes({name: torch.empty(shape, device="meta") for name, shape in listed.items()})
    assert {name: list(shape) for name, shape in published_shapes(sizes).items()} == listed
    assert variant_name(sizes) == ("ConvNeXt-T" if variant == "paper_tiny" else "ConvNeXt-L")


def test_recipe(ddcolor_set, ddcolor_tiny_weights):
    """The weights are those that the numbers were recorded with, bit for bit but for the last bit of the vectors v."""
    check_recipe(ddcolor_set, "convnext_t", ddcolor_tiny_weights)


def check_recipe(parity, name, weights):
    recorded = parity.json(f"recipe_check_{name}")
    assert checksum(weights) == recorded["sha256_without_weight_v"]
    vectors = [key for key in weights if key.endswith("weight_v")]
    assert vectors
    for key in vectors:
        assert abs(float(weights[key][0]) - recorded["sum_and_first"][key][1]) < 1e-6, key


def test_sigmas(ddcolor_set, ddcolor_tiny_weights):
    """The stored vectors make the norm that is divided by, not the true largest singular value."""
    check_sigmas(ddcolor_set, "convnext_t", ddcolor_tiny_weights)


def check_sigmas(parity, name, weights):
    recorded = parity.meta[f"sigma_{name}"]
    assert len(recorded) == sum(key.endswith("weight_orig") for key in weights)
    for layer, sigma in recorded.items():
        found = float(weights[f"{layer}.weight_orig"].norm() / _spectral(weights, layer).norm())
        assert found == pytest.approx(sigma, rel=1e-5), layer


def test_encoder(tiny):
    for match, expected in tiny.named(r"enc\.(\d)"):
        close(tiny.encoded(int(match[1])), expected, MAPS, match[0])
    for match, expected in tiny.named(r"stage_raw\.(\d)(?:_first(\d+)ch)?"):
        found = tiny.seen[f"encoder.stages.{match[1]}"]
        close(found[:, : int(match[2])] if match[2] else found, expected, MAPS, match[0])


def test_pixel_decoder(tiny):
    for match, expected in tiny.named(r"pix0_shuf_first(\d+)ch"):
        close(tiny.seen["pixel_layers.0.enlarge"][:, : int(match[1])], expected, MAPS, match[0])
    for match, expected in tiny.named(r"pix\.([0-2])"):
        close(tiny.pixels(int(match[1])), expected, MAPS, match[0])


def test_last_unit(tiny):
    """With the identity as weights, it is the recorded one."""
    channels = tiny.last_unit(torch.eye(tiny.network.sizes.last))
    for match, expected in tiny.named(r"pix\.3_first(\d+)ch"):
        close(channels[:, : int(match[1])], expected, MAPS, match[0])
    close(channels.mean((2, 3)), tiny.golden["pix.3_chmean"], MAPS, "means")
    close(channels.std((2, 3), correction=0), tiny.golden["pix.3_chstd"], MAPS, "deviations")


def test_position_code(tiny):
    """One for all pictures; a set may record it once, or once for each."""
    for match, expected in tiny.named(r"pos\.(\d)"):
        found = sine_position(*expected.shape[2:], expected.shape[1], expected)
        close(found.expand_as(expected), expected, 1e-5, match[0])


def test_color_decoder(tiny):
    layer = "color.layers"
    for match, expected in tiny.named(r"query_ca\.(\d+)"):
        close(tiny.seen[f"{layer}.{match[1]}.cross_norm"], expected, QUERIES, match[0])
    for match, expected in tiny.named(r"query_sa\.(\d+)"):
        close(tiny.seen[f"{layer}.{match[1]}.own_norm"], expected, QUERIES, match[0])
    for match, expected in tiny.named(r"query\.(\d+)"):
        close(tiny.seen[f"{layer}.{match[1]}"], expected, QUERIES, match[0])
    close(tiny.seen["color"], tiny.golden["color_embed"], EMBEDDING, "color_embed")


def test_query_maps(tiny):
    """The maps of the single queries, which our own order of the last steps never makes."""
    maps = tiny.last_unit(tiny.seen["color"])
    for match, expected in tiny.named(r"color_out_first(\d+)"):
        close(maps[:, : int(match[1])], expected, CHROMA, match[0])
    close(maps.mean((2, 3)), tiny.golden["color_out_chmean"], CHROMA, "means")


def test_chroma(tiny):
    close(tiny.chroma, tiny.golden["out_ab"], CHROMA, "out_ab")
    assert float(tiny.golden["out_ab"].abs().max()) > 5  # the tolerance means something
    assert tiny.variant == "ConvNeXt-T"


def test_large_network(ddcolor_set):
    """The other published architecture, from its own weights: about eight seconds."""
    weights = ddcolor_set.weights(LARGE)
    check_recipe(ddcolor_set, LARGE, weights)
    check_sigmas(ddcolor_set, LARGE, weights)
    run = Run(ddcolor_set, LARGE, weights)
    assert run.variant == "ConvNeXt-L"
    close(run.encoded(3), run.golden["enc.3"], MAPS, "enc.3")
    close(run.pixels(0), run.golden["pix.0"], MAPS, "pix.0")
    channels = run.last_unit(torch.eye(run.network.sizes.last))
    for match, expected in run.named(r"pix\.3_first(\d+)ch"):
        close(channels[:, : int(match[1])], expected, MAPS, match[0])
    close(run.seen["color"], run.golden["color_embed"], EMBEDDING, "color_embed")
    close(run.chroma, run.golden["out_ab"], CHROMA, "out_ab")
