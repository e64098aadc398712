"""How close two pictures are: in RGB, in chroma, in luminance. One number a picture."""

from __future__ import annotations

import torch

from .lab import luminance, rgb_to_lab
from .pictures import check_batch, check_picture


def psnr(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio.

    :param a, b: ``(B or 1, H, W, C)`` in 0..1, same size.
    :returns: ``(B,)`` float32, dB; infinite for equal pictures.
    :raises ValueError: when sizes or batches do not fit.
    """
    _check_pair(a, b, (1, 3, 4))
    return -10 * (a.float() - b.float().to(a.device)).square().mean((1, 2, 3)).log10()


def ab_error(a: torch.Tensor, b: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Mean distance of colors in the (a, b) plane of CIE Lab.

    :param a, b: ``(B or 1, H, W, 3)`` sRGB in 0..1, same size.
    :param mask: ``(B or 1, H, W)`` in 0..1, the weight of each pixel.
    :returns: ``(B,)`` float32, Lab units.
    :raises ValueError: when sizes or batches do not fit, or a mask is empty.
    """
    _check_pair(a, b, (3,))
    difference = rgb_to_lab(a.float())[..., 1:] - rgb_to_lab(b.float())[..., 1:].to(a.device)
    distance = difference.norm(dim=-1)
    if mask is None:
        return distance.mean((1, 2))
    if mask.ndim != 3 or mask.shape[1:] != distance.shape[1:]:
        raise ValueError(
            f"mask: found shape {tuple(mask.shape)}, expected (B or 1, {distance.shape[1]}, {distance.shape[2]}); "
            "resize it to the pictures."
        )
    check_batch(pictures=distance, mask=mask)
    weight = mask.to(distance)
    total = weight.sum((1, 2))
    if bool((total <= 0).any()):
        raise ValueError("mask: found an empty one, expected an area to measure; paint it or leave it out.")
    return (distance * weight).sum((1, 2)) / total


def luminance_error(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of CIE L.

    :param a, b: ``(B or 1, H, W, 3)`` sRGB in 0..1, same size.
    :returns: ``(B,)`` float32, 0..100.
    :raises ValueError: when sizes or batches do not fit.
    """
    _check_pair(a, b, (3,))
    return (luminance(a.float()) - luminance(b.float()).to(a.device)).abs().mean((1, 2))


def _check_pair(a: torch.Tensor, b: torch.Tensor, channels: tuple[int, ...]) -> None:
    check_picture(a, "first picture", channels)
    check_picture(b, "second picture", channels)
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(
            f"Pictures do not fit: found {tuple(a.shape)} and {tuple(b.shape)}, expected the same height, width and "
            "channels; resize one of them."
        )
    check_batch(first=a, second=b)
