"""Pictures and quick settings for tests of exemplar colorization."""

import dataclasses

import torch

from comfyui_exemplar.attention.dual import DualAttentionSettings
from comfyui_exemplar.pipelines.exemplar_settings import ColorizeSettings

#: Small and quick; every term of the attention takes part.
QUICK = ColorizeSettings(
    passes=2,
    depth=2,
    resolution=32,
    guidance=3.0,
    attention=DualAttentionSettings(gamma_deep=0.7, beta_deep=0.2),
)


def picture(batch=1, height=32, width=32, channels=3, seed=0):
    """Smooth shapes away from black and white, with some grain."""
    generator = torch.Generator().manual_seed(seed)
    rough = torch.rand(batch, channels, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(rough, size=(height, width), mode="bilinear")
    grain = torch.rand(batch, channels, height, width, generator=generator)
    return (0.15 + 0.6 * smooth + 0.1 * grain).movedim(1, -1)


def muted(batch=1, seed=1):
    """A reference of so little color that no luminance of our pictures is too dark or too light for it.

    Colors beyond sRGB are pulled in by bisection, whose steps of 2^-14 hide how near two results really are.
    """
    return 0.5 + 0.15 * (picture(batch, seed=seed) - 0.5)


def quick(**changes):
    return dataclasses.replace(QUICK, **changes)
