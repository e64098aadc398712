"""CIE Lab of pixels that lie in planes: the arithmetic of :mod:`.lab` in few passes, on any device.

What maps whole batches pixel by pixel spends its time here, so nothing is branched and nothing is copied that need not
be: each piece of a curve is added where it applies, what is not needed any more is written over, since new memory
costs as much as the arithmetic, and 3 x 3 matrices are sums of planes, which no device rounds to TF32 (:mod:`.lab`
goes to the CPU for that). A power is 2^(p log2 x): two kernels, where a polynomial as exact needs a dozen. Constants
are kornia's, so that both agree: to 1e-3 in L, a and b of pictures in 0..1, whose last digits differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

#: What happens to colors that sRGB lacks, see :func:`from_lab`.
Gamut = Literal["fit", "clip"]

# Where the curves of sRGB and of Lab turn from a line to a power.
_ENCODED, _LINEAR, _DARK = 0.04045, 0.0031308, 0.008856
_SLOPE, _TURN = 7.787, 6 / 29
# Linear sRGB to Y, X / Xn, Z / Zn (D65), which become L, a and b in their places, and back.
_YXZ = (
    (0.212671, 0.715160, 0.072169),
    (0.412453 / 0.95047, 0.357580 / 0.95047, 0.180423 / 0.95047),
    (0.019334 / 1.08883, 0.119193 / 1.08883, 0.950227 / 1.08883),
)
_RGB = (
    (-1.5371515162713185, 3.2404813432005266 * 0.95047, -0.4985363261688878 * 1.08883),
    (1.8759900014898907, -0.9692549499965682 * 0.95047, 0.0415559265582928 * 1.08883),
    (-0.2040413383665112, 0.0556466391351772 * 0.95047, 1.0573110696453443 * 1.08883),
)
# Light outside 0..1 by so much is a rounding error, and no color outside of sRGB.
_BELOW, _ABOVE = 1e-6, 2e-5


def matrixed(matrix: Sequence[Sequence[float]], planes: Tensor, offset: Sequence[float] | None = None) -> Tensor:
    """``matrix @ planes + offset``.

    :param matrix: k rows of D numbers; ``offset`` k numbers.
    :param planes: (D, n) floats.
    :returns: (k, n).
    """
    made = planes.new_empty(len(matrix), *planes.shape[1:])
    for place, row in enumerate(matrix):
        line = made[place]
        torch.mul(planes[0], row[0], out=line)
        for plane, factor in zip(planes[1:], row[1:], strict=True):
            if factor:
                line.add_(plane, alpha=factor)
        if offset is not None and offset[place]:
            line.add_(offset[place])
    return made


def to_lab(rgb: Tensor) -> Tensor:
    """sRGB in 0..1 to L, a and b, (3, n) float32 each; the input is left alone."""
    return _lab(_root(matrixed(_YXZ, _light(rgb))))


def from_lab(lab: Tensor, gamut: Gamut = "fit") -> Tensor:
    """L, a and b to sRGB in 0..1, (3, n) float32 each.

    :param gamut: "fit" pulls what sRGB lacks toward the neutral of the same L, as :func:`.lab.fit_gamut` does; "clip"
        clamps each channel.
    """
    roots = _roots(lab, fit=gamut == "fit")
    light = matrixed(_RGB, _cube(roots))
    if gamut == "fit":
        stray = (~_inside(light)).nonzero()[:, 0]
        if stray.numel():
            light.index_copy_(1, stray, _pulled(roots.index_select(1, stray)))
    return _encoded(light).clamp_(0, 1)


def shown(rgb: Tensor, gamut: Gamut = "fit") -> Tensor:
    """sRGB of any values, (3, n), as a screen can show it: (3, n) in 0..1; see :func:`from_lab`."""
    if gamut == "fit":
        stray = ((rgb < 0) | (rgb > 1)).any(0).nonzero()[:, 0]
        if stray.numel():
            rgb = rgb.index_copy(1, stray, from_lab(to_lab(rgb.index_select(1, stray))))
    return rgb.clamp(0, 1)


def _light(encoded: Tensor) -> Tensor:
    """sRGB's values to linear light."""
    power = encoded.clamp_min(_ENCODED)
    line = encoded - power
    return power.add_(0.055).mul_(1 / 1.055).log2_().mul_(2.4).exp2_().add_(line, alpha=1 / 12.92)


def _encoded(light: Tensor) -> Tensor:
    """The way back; ``light`` is written over."""
    power = light.clamp_min(_LINEAR)
    line = light.sub_(power)
    return power.log2_().mul_(1 / 2.4).exp2_().mul_(1.055).sub_(0.055).add_(line, alpha=12.92)


def _root(light: Tensor) -> Tensor:
    """CIE's f: the cube root, a line where it is dark; ``light`` is written over."""
    power = light.clamp_min(_DARK)
    line = light.sub_(power)
    return power.log2_().mul_(1 / 3).exp2_().add_(line, alpha=_SLOPE)


def _cube(roots: Tensor) -> Tensor:
    """The way back: its line, and what a cube has above that tangent, (f - t)^2 (f + 2 t)."""
    above = (roots - _TURN).clamp_min_(0)
    return (above * above).mul_(above.add_(3 * _TURN)).add_(roots, alpha=1 / _SLOPE).sub_(4 / 29 / _SLOPE)


def _lab(roots: Tensor) -> Tensor:
    """Roots of Y, X and Z, written over with L, a and b."""
    y, x, z = roots
    x.sub_(y).mul_(500)
    z.sub_(y).mul_(-200)
    y.mul_(116).sub_(16)
    return roots


def _roots(lab: Tensor, fit: bool) -> Tensor:
    """The way back.

    :param fit: whether L is clamped to 0..100.
    """
    roots = torch.empty_like(lab)
    y, x, z = roots
    if fit:
        torch.clamp(lab[0], 0, 100, out=y).add_(16).mul_(1 / 116)
    else:
        torch.add(lab[0], 16, out=y).mul_(1 / 116)
    torch.add(y, lab[1], alpha=1 / 500, out=x)
    torch.sub(y, lab[2], alpha=1 / 200, out=z)
    return roots


def _inside(light: Tensor) -> Tensor:
    """(n,): which colors sRGB has."""
    red, green, blue = light
    low = torch.minimum(torch.minimum(red, green), blue)
    high = torch.maximum(torch.maximum(red, green), blue)
    return (low >= -_BELOW).logical_and_(high <= 1 + _ABOVE)


def _pulled(roots: Tensor, iterations: int = 14) -> Tensor:
    """Light of colors outside of sRGB, (3, n), at the most chroma that fits, by bisection; L stays."""
    gray = roots[:1]
    away = roots - gray
    fits = torch.zeros_like(gray)
    step = 0.5
    for _ in range(iterations):
        inside = _inside(matrixed(_RGB, _cube(gray + (fits + step) * away)))
        fits.add_(inside[None].to(fits.dtype), alpha=step)
        step /= 2
    return matrixed(_RGB, _cube(gray + fits * away))
