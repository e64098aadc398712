"""A DDColor of a few thousand numbers, in published names."""

from comfyui_exemplar.networks.ddcolor.model import DDColorSizes
from comfyui_exemplar.networks.ddcolor.weights import published_shapes

from .parity.ddcolor_set import recipe

SIZES = DDColorSizes(
    depths=(1, 2, 1, 1),
    widths=(8, 16, 24, 32),
    enlarged=(24, 20, 16),
    decoded=(28, 24, 16),
    last=12,
    hidden=32,
    feedforward=48,
    queries=7,
    layers=6,
)


def small_weights(salt: str = "small"):
    """All tensors of a file."""
    return recipe(published_shapes(SIZES), salt)
