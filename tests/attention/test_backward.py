"""The estimate of what a backward pass keeps, against what was counted on whole networks."""

import pytest

from comfyui_exemplar.attention.backward import kept_bytes
from comfyui_exemplar.attention.layers import Layer, LayerInfo


def layers(*levels):
    """(width, downscale, how many) -> their infos."""
    return [LayerInfo(Layer("output", 0, i), width, 8, scale) for width, scale, count in levels for i in range(count)]


SD15 = layers((320, 1, 5), (640, 2, 5), (1280, 4, 5), (1280, 8, 1))
SDXL = layers((640, 2, 10), (1280, 4, 60))


@pytest.mark.parametrize(
    ("network", "side", "counted"), [(SD15, 64, 703.7), (SD15, 128, 2803.8), (SDXL, 64, 1243.7), (SDXL, 128, 4901.6)]
)
def test_whole_networks_in_half_precision(network, side, counted):
    """Counted in MiB on ComfyUI's networks, one row, by what autograd saves on torch's device "meta"."""
    found = kept_bytes(network, 320, (1, 4, side, side), 2)
    assert found / 2**20 == pytest.approx(counted, rel=0.02)
    assert kept_bytes(network, 320, (3, 4, side, side), 4) == pytest.approx(6 * found)


@pytest.mark.parametrize(("network", "side", "counted"), [(SD15, 64, 141.6), (SDXL, 128, 452.5)])
def test_inputs_alone_are_a_third_at_most(network, side, counted):
    found = kept_bytes(network, 320, (1, 4, side, side), 2, recomputed=True)
    assert counted < found / 2**20 < kept_bytes(network, 320, (1, 4, side, side), 2) / 2**20 / 2.9


def test_odd_sides_round_up():
    assert kept_bytes(layers((320, 2, 1)), 0, (1, 4, 7, 9), 2) == kept_bytes(layers((320, 2, 1)), 0, (1, 4, 8, 10), 2)
