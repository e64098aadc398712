"""How close two pictures are: in RGB, in chroma, in luminance. One number a picture."""

from __future__ import annotations

import torch

from .batches import check_batch
from .lab import luminance, rgb_to_lab
from .pictures import check_picture


def psnr(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio.

    :param a, b: ``(B or 1, H, W, C)`` in 0..1, same size.
    :returns: ``(B,)`` float32, dB; infinite for equal pictures.
    :raises ValueError: when sizes or batches do not fit.
    """
    check_pair(a, b, (1, 3, 4))
    return -10 * (a.float() - b.float().to(a.device)).square().mean((1, 2, 3)).log10()


def ab_error(a: torch.Tensor, b: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Mean distance of colors in the (a, b) plane of CIE Lab.

    :param a, b: ``(B or 1, H, W, 3)`` sRGB in 0..1, same size.
    :param mask: ``(B or 1, H, W)`` in 0..1, the weight of each pixel.
    :returns: ``(B,)`` float32, Lab units.
    :raises ValueError: when sizes or batches do not fit, or a mask is empty.
    """
    check_pair(a, b, (3,))
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
    check_pair(a, b, (3,))
    return (luminance(a.float()) - luminance(b.float()).to(a.device)).abs().mean((1, 2))


def color_ghosting(picture: torch.Tensor, gray: torch.Tensor, edge: float = 4.0, reach: int = 2) -> torch.Tensor:
    """How much color changes where lightness does not: halos, and colors that run over an edge.

    The mean length of the steps of (a, b) to the right and downward, over the pixels that are further than ``reach``
    from any edge of the gray picture. 0 for one flat color; a true picture has some, where things differ in color
    alone.

    :param picture: ``(B or 1, H, W, 3)`` sRGB in 0..1; ``gray`` the same, of which only L counts.
    :param edge: a step of L between neighbors that counts as an edge, Lab units.
    :param reach: pixels around an edge that are left out.
    :returns: ``(B,)`` float32, Lab units a pixel; 0 where every pixel is near an edge.
    :raises ValueError: when sizes or batches do not fit.
    """
    check_pair(picture, gray, (3,))
    chroma = _steps(rgb_to_lab(picture.float())[..., 1:].movedim(-1, 1))
    lightness = _steps(luminance(gray.float())[:, None].to(chroma.device))
    edges = torch.nn.functional.max_pool2d((lightness > edge).float(), 2 * reach + 1, 1, reach)
    flat = 1 - edges[:, 0]
    return (chroma[:, 0] * flat).sum((1, 2)) / flat.expand_as(chroma[:, 0]).sum((1, 2)).clamp_min(1)


def _steps(maps: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) -> (B, 1, H, W): the length of the step to the right and downward, 0 in the last row and column."""
    right = torch.nn.functional.pad(maps.diff(dim=-1), (0, 1))
    down = torch.nn.functional.pad(maps.diff(dim=-2), (0, 0, 0, 1))
    return (right.square() + down.square()).sum(1, keepdim=True).sqrt()


def check_pair(a: torch.Tensor, b: torch.Tensor, channels: tuple[int, ...]) -> None:
    """Refuse two pictures, or batches, that cannot be compared place by place.

    :param channels: the channel counts that are accepted.
    :raises ValueError: no pictures, or sizes or batches that do not fit.
    """
    check_picture(a, "first picture", channels)
    check_picture(b, "second picture", channels)
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(
            f"Pictures do not fit: found {tuple(a.shape)} and {tuple(b.shape)}, expected the same height, width and "
            "channels; resize one of them."
        )
    check_batch(first=a, second=b)
