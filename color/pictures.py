"""Checks and conversions that every color function shares."""

from __future__ import annotations

import torch


def check_picture(picture: torch.Tensor, name: str, channels: tuple[int, ...] = (3,)) -> None:
    """Refuse what is not a picture batch.

    :param picture: expected ``(B, H, W, C)``, floating point, H and W at least 1, C one of ``channels``.
    :param name: what the caller calls it; the message starts with it.
    :param channels: the channel counts that are accepted.
    :raises ValueError: saying what was found, what was expected and what to do.
    """
    accepted = " or ".join(str(count) for count in channels)
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
    if not picture.is_floating_point():
        raise ValueError(f"{name}: found dtype {picture.dtype}, expected floats in 0..1; divide 8-bit values by 255.")


def resize(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(B, H, W, C) -> (B, h, w, C): bicubic, antialiased, kept within 0..1."""
    if tuple(image.shape[1:3]) == size:
        return image
    moved = torch.nn.functional.interpolate(image.movedim(-1, 1).float(), size=size, mode="bicubic", antialias=True)
    return moved.movedim(1, -1).clamp(0, 1)


def to_uint8(picture: torch.Tensor) -> torch.Tensor:
    """Floats in 0..1 to uint8, rounded to the nearest level, so that 8-bit files loaded as v/255 come back as v."""
    return picture.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)
