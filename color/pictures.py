"""Checks and conversions that every color function shares."""

from __future__ import annotations

import logging
import math

import torch

from .tensors import FLOATS, check_tensor

log = logging.getLogger(__name__)

#: How far outside 0..1 values may lie and still be what a resize or a sharpening leaves behind: bicubic and Lanczos
#: kernels overshoot an edge by up to about 0.2. What lies further out is another scale (0..255, -1..1, light of an HDR
#: picture), and clipping it would destroy it.
OVERSHOOT = 0.25

#: How far a few values may: bicubic weights in two directions reach 1.1875 ** 2 + 0.1875 ** 2 = 1.445 where single
#: pixels alternate, as in a halftone. There one value in a hundred lies beyond ``OVERSHOOT``; of another scale more do.
_CORNERS, _FEW = 0.5, 0.02

#: Half an 8-bit level: what lies outside by less is no loss.
_LEVEL = 0.5 / 255


def check_picture(picture: torch.Tensor, name: str, channels: tuple[int, ...] = (3,)) -> None:
    """Refuse what is not a picture batch.

    :param picture: expected ``(B, H, W, C)``, floating point, H and W at least 1, C one of ``channels``.
    :param name: what the caller calls it; the message starts with it.
    :param channels: the channel counts that are accepted.
    :raises ValueError: saying what was found, what was expected and what to do.
    """
    accepted = " or ".join(str(count) for count in channels)
    check_tensor(picture, name, f"(B, H, W, {accepted})")
    if picture.ndim != 4:
        raise ValueError(
            f"{name}: found a tensor of shape {tuple(picture.shape)}, expected (B, H, W, {accepted}); add the missing "
            "batch axis or move the channels last."
        )
    if picture.shape[-1] not in channels:
        raise ValueError(
            f"{name}: found {picture.shape[-1]} channels, expected {accepted}; remove the alpha channel or repeat the "
            "gray one first."
        )
    if 0 in picture.shape[1:3]:
        raise ValueError(f"{name}: found an empty picture {tuple(picture.shape)}, expected at least one pixel.")
    if picture.dtype not in FLOATS:
        raise ValueError(f"{name}: found dtype {picture.dtype}, expected floats in 0..1; divide 8-bit values by 255.")


def within(values: torch.Tensor, name: str) -> torch.Tensor:
    """Values in 0..1 from values that are hardly outside, :data:`OVERSHOOT` at most, a few of them twice that.

    :param values: floats of any shape, not empty. They are looked at once.
    :param name: what the user calls it; messages start with it.
    :returns: same shape and dtype; the tensor itself where it is within 0..1.
    :raises ValueError: NaN, infinite values or another scale.
    """
    low, high = torch.stack(torch.aminmax(values.detach())).cpu().tolist()
    if low >= 0 and high <= 1:
        return values
    if not (low >= -OVERSHOOT and high <= 1 + OVERSHOOT) and not _are_corners(values, low, high):
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"{name}: found NaN or infinite values, expected 0..1; look at the node that made it.")
        raise ValueError(
            f"{name}: found values from {low:.4g} to {high:.4g}, expected 0..1; {_remedy(low, high)} before this."
        )
    if low < -_LEVEL or high > 1 + _LEVEL:
        log.warning("%s: values from %.3f to %.3f are clipped to 0..1.", name, low, high)
    return values.clamp(0, 1)


def _are_corners(values: torch.Tensor, low: float, high: float) -> bool:
    """Whether only a few values are far outside, and none very far: what a resize leaves of a halftone."""
    if not (low >= -_CORNERS and high <= 1 + _CORNERS):
        return False
    outside = ((values < -OVERSHOOT) | (values > 1 + OVERSHOOT)).float().mean()
    return float(outside) <= _FEW


def _remedy(low: float, high: float) -> str:
    if -1 <= low < 0 and high <= 1:
        return "bring -1..1 to 0..1"
    return "divide 8-bit values by 255" if low >= 0 and 100 < high <= 255 else "bring them to 0..1"


def resize(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(B, H, W, C) -> (B, h, w, C): bicubic, antialiased, kept within 0..1."""
    if tuple(image.shape[1:3]) == size:
        return image
    moved = torch.nn.functional.interpolate(image.movedim(-1, 1).float(), size=size, mode="bicubic", antialias=True)
    return moved.movedim(1, -1).clamp(0, 1)


def to_uint8(picture: torch.Tensor) -> torch.Tensor:
    """Floats in 0..1 to uint8, rounded to the nearest level, so that 8-bit files loaded as v/255 come back as v."""
    return picture.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)
