"""Chroma of a drifted copy carried to the original's pixels, and filled where the copy cannot say.

Everything at full size is done strip by strip, so that beside the pictures memory does not grow with them.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .guided import upsample_guided
from .lab import luminance, rgb_to_lab
from .pictures import resize
from .registration import blurred, boxed, sampled

#: Pixels of a strip, and rows around it that its filters look at.
STRIP, HALO = 2**20, 8
#: Standard deviations of the surroundings that a gap is filled from, wide ones first, shares of the longest side; and
#: the variance of L below which they count as flat.
FILL, FLAT = (0.1, 0.05, 0.025, 0.0125), 25.0
#: Half the window of the local model of chroma, its regularization, and how many times the usual remainder counts as
#: noise.
RADIUS, EVEN, NOISE = 2, 4.0, 2.0


def strips(height: int, width: int) -> Iterator[slice]:
    """Rows of a picture, some at a time."""
    rows = max(1, STRIP // width)
    for first in range(0, height, rows):
        yield slice(first, min(height, first + rows))


def at_size(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """(h, w, C) or (h, w) at another size, smooth."""
    flat = planes if planes.ndim == 3 else planes[..., None]
    if tuple(flat.shape[:2]) != tuple(size):
        # slow, and without effect along axes that grow
        shrinking = any(new < old for new, old in zip(size, flat.shape[:2], strict=True))
        planes_first = flat.movedim(-1, 0)[None]
        flat = F.interpolate(planes_first, tuple(size), mode="bilinear", antialias=shrinking)[0].movedim(0, -1)
    return flat if planes.ndim == 3 else flat[..., 0]


def carried(edited: Tensor, displacement: Tensor, size: tuple[int, int], factor: int = 1) -> Tensor:
    """A copy laid on the original's pixels.

    :param edited: (h, w, C), any values; at most about as large as the result, since nothing is averaged.
    :param displacement: (f, g, 2), x and y in pixels of its own size, see :mod:`.flow`.
    :param size: (H, W) of the original.
    :param factor: pixels of the original that one of the result stands for, in both directions.
    :returns: (H / factor, W / factor, C), rounded up.
    """
    planes = edited.float().movedim(-1, 0)
    frame = torch.tensor([displacement.shape[1], displacement.shape[0]])
    whole = torch.tensor([size[1], size[0]])
    there = torch.tensor([edited.shape[1], edited.shape[0]])
    height, width = -(-size[0] // factor), -(-size[1] // factor)
    out = torch.empty(height, width, edited.shape[2])
    motion = displacement.movedim(-1, 0)
    columns = torch.arange(width, dtype=torch.float32)
    for rows in strips(height, width):
        lines = torch.arange(rows.start, rows.stop, dtype=torch.float32)
        places = torch.stack(torch.meshgrid(lines, columns, indexing="ij")[::-1], -1)
        share = (places + 0.5) * factor / whole  # 0 to 1 over the original
        moved = sampled(motion, share * frame - 0.5).movedim(0, -1) / frame
        out[rows] = sampled(planes, (share + moved) * there - 0.5, "bicubic").movedim(0, -1)
    return out


def aligned_chroma(edited: Tensor, displacement: Tensor, lightness: Tensor) -> Tensor:
    """a and b of a copy laid on the original's pixels, along the original's edges.

    A copy of lower resolution is laid on at about its own, and enlarged as in :mod:`.guided`. What a and b have beside
    a local linear model of L, and no more than the picture usually has of it, is noise of the copy and is taken out.

    :param edited: (h, w, 3) in 0..1.
    :param displacement: (f, g, 2), see :func:`carried`.
    :param lightness: (H, W), CIE L of the original.
    :returns: (H, W, 2).
    """
    size = (lightness.shape[0], lightness.shape[1])
    chroma = rgb_to_lab(fitting(edited, size)[None])[0, ..., 1:]
    factor = max(1, min(size[0] // chroma.shape[0], size[1] // chroma.shape[1]))
    small = carried(chroma, displacement, size, factor)
    pad = [(-side) % factor for side in size]
    full = F.pad(lightness[None, None], (0, pad[1], 0, pad[0]), mode="replicate")[0, 0] if any(pad) else lightness
    guide = full if factor == 1 else F.avg_pool2d(full[None, None], factor)[0, 0]
    _denoise(small, guide)
    if factor == 1:
        return small
    out = torch.empty(*size, 2)
    for rows in strips(small.shape[0], full.shape[1] * factor):
        low, high = max(0, rows.start - HALO), min(small.shape[0], rows.stop + HALO)
        large = upsample_guided(small[None, low:high], full[None, low * factor : high * factor, :, None])[0]
        first, last = rows.start * factor, min(size[0], rows.stop * factor)
        out[first:last] = large[first - low * factor : last - low * factor, : size[1]]
    return out


def fitting(edited: Tensor, size: tuple[int, int]) -> Tensor:
    """A copy as float32 on the CPU, no larger than a size in either direction."""
    smaller = (min(edited.shape[0], size[0]), min(edited.shape[1], size[1]))
    return resize(edited[None].cpu().float(), smaller)[0]


def _denoise(chroma: Tensor, lightness: Tensor) -> None:
    """In place, Wiener's rule on what a guided filter (He, Sun, Tang, PAMI 2013) does not explain."""
    smooth = torch.empty_like(chroma)
    for rows in strips(*lightness.shape):
        low, high = max(0, rows.start - HALO), min(len(chroma), rows.stop + HALO)
        part = _guided(chroma[low:high].movedim(-1, 0), lightness[low:high])
        smooth[rows] = part[:, rows.start - low : rows.stop - low].movedim(0, -1)
    # of the whole picture: strips with noise of their own would show
    every = max(1, int((lightness.numel() / 2**17) ** 0.5))
    noise = NOISE**2 * (chroma[::every, ::every] - smooth[::every, ::every]).square().sum(-1).median()
    for rows in strips(*lightness.shape):
        rest = chroma[rows] - smooth[rows]
        length = rest.square().sum(-1, keepdim=True)
        chroma[rows] = smooth[rows] + rest * length / (length + noise + 1e-9)


def _guided(chroma: Tensor, lightness: Tensor) -> Tensor:
    """(2, h, w) as local linear functions of (h, w)."""
    guide = lightness[None]
    middle, center = boxed(guide, RADIUS), boxed(chroma, RADIUS)
    variance = (boxed(guide * guide, RADIUS) - middle * middle).clamp_min(0)
    slope = (boxed(guide * chroma, RADIUS) - middle * center) / (variance + EVEN)
    return boxed(slope, RADIUS) * guide + boxed(center - slope * middle, RADIUS)


def filled(chroma: Tensor, weight: Tensor, lightness: Tensor) -> Tensor:
    """Chroma from the sure places around: what they have at about this lightness, near ones before far ones.

    Local linear functions of L are fitted to the sure places of ever smaller surroundings; each is laid over the one
    before as far as there is anything sure in it.

    :param chroma: (h, w, 2); ``weight`` (h, w) in 0..1; ``lightness`` (h, w), CIE L of the original.
    :returns: (h, w, 2).
    """
    planes = chroma.movedim(-1, 0)
    longest = max(weight.shape)
    total = weight.sum().clamp_min(1e-6)
    known = ((planes * weight).sum((1, 2)) / total)[:, None, None].expand_as(planes)
    lit, weighed = lightness * weight, planes * weight
    sums = torch.cat([weight[None], lit[None], (lit * lightness)[None], weighed, weighed * lightness])
    low, high = (extreme(dim=1)[:, None, None] for extreme in (planes.flatten(1).amin, planes.flatten(1).amax))
    for share in FILL:
        means = blurred(sums, max(1.0, share * longest))
        count = means[0].clamp_min(1e-6)
        middle, center = means[1] / count, means[3:5] / count
        variance = (means[2] / count - middle * middle).clamp_min(0)
        slope = (means[5:7] / count - middle * center) / (variance + FLAT)
        here = torch.maximum(torch.minimum(center + slope * (lightness - middle), high), low)
        known = torch.lerp(known, here, (4 * means[0]).clamp(0, 1))
    return known.movedim(0, -1)


def changed(original: Tensor, aligned: Tensor, weight: Tensor, sigma: float, least: float = 4.0) -> Tensor:
    """(h, w) in 0..1: how far a copy has another color than an original that has colors.

    :param original: (h, w, 2), a and b; ``aligned`` the copy's, laid on it; ``weight`` (h, w), how sure that is.
    :param sigma: pixels over which colors are compared.
    :param least: difference that counts as none; twice it counts fully. What all of the picture has differs from it:
        the middle difference is taken out where it is below this.
    """
    difference = (aligned - original).movedim(-1, 0)
    sure = weight > 0.5
    if bool(sure.any()):
        cast = difference[:, sure].median(dim=1).values
        if float(cast.norm()) < least:
            difference = difference - cast[:, None, None]
    share = ((blurred(difference, sigma).norm(dim=0) - least) / least).clamp(0, 1)
    return share * share * (3 - 2 * share)


def lightness_of(picture: Tensor) -> Tensor:
    """CIE L of (H, W, 3), (H, W) float32 on the CPU."""
    return luminance(picture[None].cpu().float())[0]
