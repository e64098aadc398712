"""How close a picture is to the truth, where the field has more than one arithmetic under one name."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..metrics import check_pair
from .colorfulness import levels

#: Wang et al. 2004: the two constants that keep quotients of small numbers steady, as shares of the range.
_K1, _K2 = 0.01, 0.03
#: Wang et al. 2004: side and deviation of the Gaussian window, pixels.
_WINDOW, _SIGMA = 11, 1.5
#: scikit-image's default: side of the flat window, pixels.
_FLAT_WINDOW = 7


def psnr_as_colormnet(picture: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio as the program of ColorMNet (Yang et al. 2024) prints it.

    It subtracts and squares arrays of 8 bits, so that both wrap around at 256: what is far off counts as near. Use
    ``color.psnr`` for the ratio itself.

    :param picture, truth: ``(B or 1, H, W, 3)`` in 0..1, same size; taken in 8 bits.
    :returns: ``(B,)`` float64 on the CPU, dB; infinite where every square is 0 modulo 256, as for equal pictures.
    :raises ValueError: when sizes or batches do not fit.
    """
    check_pair(picture, truth, (3,))
    step = (levels(truth).int() - levels(picture).int()) % 256
    error = (step.square() % 256).double().mean((1, 2, 3))
    return 20 * (255 / error.sqrt()).log10()


def ssim(picture: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of Wang et al., *Image quality assessment*, IEEE TIP 13(4), 2004.

    A Gaussian window of 11 x 11 with deviation 1.5, population statistics, K 0.01 and 0.03, averaged over all windows
    that lie inside; the paper is of gray pictures, so that the three channels are averaged here.

    :param picture, truth: ``(B or 1, H, W, 3)`` in 0..1, same size, at least 11 pixels a side.
    :returns: ``(B,)`` float64 on the CPU, -1 to 1, 1 for equal pictures.
    :raises ValueError: when sizes or batches do not fit, or a side is too small.
    """
    _check(picture, truth, _WINDOW)
    offsets = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
    row = (-offsets.square() / (2 * _SIGMA**2)).exp()
    row = row / row.sum()
    return _ssim(picture, truth, partial(_weighted, row=row), 1.0)


def ssim_as_skimage(picture: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity with scikit-image's defaults, which the program of ColorMNet reports.

    A flat window of 7 x 7 and sample statistics (divided by 48, not 49), on pictures of 8 bits, averaged over windows
    inside and the three channels.

    :param picture, truth: ``(B or 1, H, W, 3)`` in 0..1, same size, at least 7 pixels a side.
    :returns: ``(B,)`` float64 on the CPU, -1 to 1, 1 for equal pictures.
    :raises ValueError: when sizes or batches do not fit, or a side is too small.
    """
    _check(picture, truth, _FLAT_WINDOW)
    row = torch.full((_FLAT_WINDOW,), 1 / _FLAT_WINDOW, dtype=torch.float64)
    count = _FLAT_WINDOW**2
    in_levels, truth_in_levels = (levels(each).double() / 255 for each in (picture, truth))
    return _ssim(in_levels, truth_in_levels, partial(_weighted, row=row), count / (count - 1))


def _check(picture: Tensor, truth: Tensor, least: int) -> None:
    check_pair(picture, truth, (3,))
    height, width = picture.shape[1:3]
    if min(height, width) < least:
        raise ValueError(
            f"ssim: found {width} x {height} pixels, expected at least {least} on each side, which is the measure's "
            "window; compare larger pictures."
        )


def _weighted(maps: Tensor, row: Tensor) -> Tensor:
    """Means over windows that lie inside: (N, 1, H, W) -> smaller by the window's side less 1."""
    return F.conv2d(F.conv2d(maps, row.view(1, 1, 1, -1)), row.view(1, 1, -1, 1))


def _ssim(picture: Tensor, truth: Tensor, mean: partial[Tensor], sample: float) -> Tensor:
    """:param sample: what turns population statistics into those that are meant."""
    one, other = (each.detach().cpu().double().movedim(-1, 1) for each in (picture, truth))
    one, other = torch.broadcast_tensors(one, other)
    x, y = (each.reshape(-1, 1, *each.shape[2:]) for each in (one, other))
    mean_x, mean_y = mean(x), mean(y)
    var_x = sample * (mean(x * x) - mean_x * mean_x)
    var_y = sample * (mean(y * y) - mean_y * mean_y)
    both = sample * (mean(x * y) - mean_x * mean_y)
    c1, c2 = _K1**2, _K2**2
    upper = (2 * mean_x * mean_y + c1) * (2 * both + c2)
    lower = (mean_x.square() + mean_y.square() + c1) * (var_x + var_y + c2)
    return (upper / lower).mean((1, 2, 3)).view(one.shape[0], -1).mean(1)
