"""Measures that papers report, each as its paper defines it and as the published program computes it.

Pure functions of tensors, in float64 where sums are long. What ends in ``_as_<program>`` repeats a program's
arithmetic, quirks and all, so that a number can stand beside the one in its paper's table; the plain name is what the
measure's own paper says. :mod:`.fidelity` compares a picture with the truth, :mod:`.colorfulness` looks at one picture,
:mod:`.histograms` compares its colors with a reference's, and :mod:`.distances` compares what a network sees of them.
Networks are not here: the distances take features.
"""

from .colorfulness import colorfulness, colorfulness_as_ddcolor
from .distances import (
    frechet_distance,
    moments_distance,
    single_image_distance,
    single_image_distance_as_exemplar,
)
from .fidelity import psnr_as_colormnet, ssim, ssim_as_skimage
from .histograms import histogram_intersection, histogram_intersection_as_exemplar

__all__ = [
    "colorfulness",
    "colorfulness_as_ddcolor",
    "frechet_distance",
    "histogram_intersection",
    "histogram_intersection_as_exemplar",
    "moments_distance",
    "psnr_as_colormnet",
    "single_image_distance",
    "single_image_distance_as_exemplar",
    "ssim",
    "ssim_as_skimage",
]
