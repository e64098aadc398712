"""How colorful a picture is: a number for each, in levels of 0..255."""

from __future__ import annotations

import torch
from torch import Tensor

from ..pictures import check_picture

#: How much the means count beside the deviations, as the paper fits it to what people said.
_MEAN_SHARE = 0.3


def colorfulness(picture: Tensor) -> Tensor:
    """Colorfulness of Hasler and Suesstrunk, *Measuring colorfulness in natural images*, SPIE 5007, 2003: M(3).

    With rg = R - G and yb = (R + G) / 2 - B over the pixels, the length of their two deviations and 0.3 times the
    length of their two means.

    :param picture: ``(B, H, W, 3)``, sRGB in 0..1.
    :returns: ``(B,)`` float64 on the CPU, in levels of 0..255; 0 for gray.
    :raises ValueError: for anything that is not a floating ``(B, H, W, 3)``.
    """
    return _colorfulness(*_opponents(picture))


def colorfulness_as_ddcolor(picture: Tensor) -> Tensor:
    """:func:`colorfulness` as the program of DDColor (Kang et al. 2023) computes it.

    It takes absolute values of rg and yb first, which moves the means away from 0 and makes the deviations smaller. The
    picture is taken in 8 bits, as the program has it. ColorMNet's has the same lines for pictures in the other order,
    so that red and blue are exchanged there: hand over ``picture.flip(-1)`` for its number.

    :param picture: ``(B, H, W, 3)``, sRGB in 0..1.
    :returns: ``(B,)`` float64 on the CPU, in levels of 0..255.
    :raises ValueError: for anything that is not a floating ``(B, H, W, 3)``.
    """
    check_picture(picture, "colorfulness_as_ddcolor")
    red_green, yellow_blue = _opponents(levels(picture).double() / 255)
    return _colorfulness(red_green.abs(), yellow_blue.abs())


def levels(picture: Tensor) -> Tensor:
    """A picture in 8 bits, rounded: floats in 0..1 of any shape -> uint8 on the CPU."""
    return (picture.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8)


def _opponents(picture: Tensor) -> tuple[Tensor, Tensor]:
    """(B, H * W) of red against green and of yellow against blue, in levels."""
    check_picture(picture, "colorfulness")
    red, green, blue = (picture.detach().cpu().double() * 255).flatten(1, 2).unbind(-1)
    return red - green, (red + green) / 2 - blue


def _colorfulness(red_green: Tensor, yellow_blue: Tensor) -> Tensor:
    spread = (red_green.var(1, correction=0) + yellow_blue.var(1, correction=0)).sqrt()
    mean = (red_green.mean(1).square() + yellow_blue.mean(1).square()).sqrt()
    return spread + _MEAN_SHARE * mean
