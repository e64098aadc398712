"""Chroma upsampling that follows the edges of the gray picture.

Source: the guided filter (He, Sun, Tang, PAMI 2013) in its fast form (He and Sun 2015, arXiv 1505.00996): near every
place a and b are modelled as linear functions of L at the small size, and the functions, not the colors, are enlarged.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

#: Half the window in small pixels; the variance of L (units of CIE L squared) below which a place counts as flat; and
#: how often the remainder is added. Chosen on a drawing, a scene and a photograph with known colors, 4x: 45, 42 and 45
#: dB PSNR, where bilinear enlarging of the true chroma has 36, 35 and 44.
RADIUS = 1
FLAT = 9.0
CORRECTIONS = 2


#: Half the window, in pixels, in which chroma that was carried along a motion is put right by the edges around. Where
#: measured (six rendered shots) the change of chroma along the motion fell from 1.48 to 1.09 of the true one.
REACH = 2


def follow_edges(chroma: torch.Tensor, lightness: torch.Tensor) -> torch.Tensor:
    """Chroma without grain, with its edges where those of the picture are: the guided filter at one size.

    What was carried brings the grain of where it comes from, and a seam along things, since optical flow is smooth. A
    seam of about a pixel is put right; a wider one only becomes softer.

    :param chroma: (h, w, 2), a and b.
    :param lightness: (h, w), CIE L without grain, or the grain comes into the chroma.
    :returns: (h, w, 2).
    """
    planes, guide = chroma.movedim(-1, 0)[None], lightness[None, None].to(chroma)
    mean_guide, mean_planes = _mean(guide, REACH), _mean(planes, REACH)
    variance = _mean(guide * guide, REACH) - mean_guide**2
    slope = (_mean(guide * planes, REACH) - mean_guide * mean_planes) / (variance + FLAT)
    offset = mean_planes - slope * mean_guide
    return (_mean(slope, REACH) * guide + _mean(offset, REACH))[0].movedim(0, -1)


def _mean(planes: torch.Tensor, radius: int) -> torch.Tensor:
    return F.avg_pool2d(planes, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)


def upsample_guided(
    chroma: torch.Tensor, lightness: torch.Tensor, radius: int = RADIUS, flat: float = FLAT
) -> torch.Tensor:
    """Enlarge chroma along the edges of a picture.

    :param chroma: (B, h, w, 2), a and b.
    :param lightness: (B, H, W, 1), CIE L of the full-size gray picture.
    :param radius: reach of the local model in small pixels, at least 1.
    :param flat: regularisation; large values approach plain smooth enlarging.
    :returns: (B, H, W, 2). Values stay within those of the neighborhood, so no new colors appear.
    """
    small, size = chroma.movedim(-1, 1), lightness.shape[1:3]
    full = lightness.movedim(-1, 1)
    guide = F.interpolate(full, small.shape[2:], mode="bilinear", antialias=True)

    def mean(t: torch.Tensor) -> torch.Tensor:
        return _mean(t, radius)

    def enlarge(t: torch.Tensor) -> torch.Tensor:
        return F.interpolate(t, tuple(size), mode="bilinear", antialias=True)

    mean_guide, mean_chroma = mean(guide), mean(small)
    variance = mean(guide * guide) - mean_guide**2
    slope = (mean(guide * small) - mean_guide * mean_chroma) / (variance + flat)
    offset = mean_chroma - slope * mean_guide
    followed = enlarge(slope) * full + enlarge(offset)
    # what the linear model missed: shrunk again, the result is to be the chroma that was given
    for _ in range(CORRECTIONS):
        shrunk = F.interpolate(followed, small.shape[2:], mode="bilinear", antialias=True)
        followed = followed + enlarge(small - shrunk)
    highest = enlarge(F.max_pool2d(small, 3, stride=1, padding=1))
    lowest = enlarge(-F.max_pool2d(-small, 3, stride=1, padding=1))
    return torch.maximum(torch.minimum(followed, highest), lowest).movedim(1, -1)
