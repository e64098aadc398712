"""OpenCV's float CIE Lab, for parity with programs that use it: :mod:`.lab` is the textbook's, which is not the same.

OpenCV (4.x and 5.0) reads sRGB to Lab from a 33 x 33 x 33 table of integers, up to 0.24 off in L and 0.56 in a and b.
The way back is plain formulas, with OpenCV's own constants. Both are written here from their description, so that
nothing needs OpenCV; against OpenCV itself 99.9 % of the numbers are equal, the others one step of the table away
(0.0061 in L, 0.0156 in a and b).
"""

from __future__ import annotations

from functools import cache

import torch

from .pictures import check_picture

_POINTS = 33  # of the table on each axis
_ONE = 2**14  # what 1.0 is in the table
_TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_FROM_XYZ = (
    (3.240479, -1.53715, -0.498535),
    (-0.969256, 1.875991, 0.041556),
    (0.055648, -0.204043, 1.057311),
)
_WHITE = (0.950456, 1.0, 1.088754)


def opencv_rgb_to_lab(image: torch.Tensor) -> torch.Tensor:
    """sRGB to Lab by OpenCV's table.

    :param image: ``(B, H, W, 3)``, sRGB, clipped to 0..1.
    :returns: ``(B, H, W, 3)`` float32 on the CPU: L in 0..100, a and b about -127..127.
    :raises ValueError: for anything that is not a floating ``(B, H, W, 3)``.
    """
    check_picture(image, "opencv_rgb_to_lab")
    table = torch.tensor(_table(), dtype=torch.int32).view(-1, 3)
    return torch.stack([_look_up(frame.to("cpu", torch.float32), table) for frame in image])


def opencv_lab_to_rgb(lab: torch.Tensor) -> torch.Tensor:
    """Lab to sRGB by OpenCV's formulas, clipped to 0..1.

    :param lab: ``(B, H, W, 3)`` as :func:`opencv_rgb_to_lab` gives it.
    :returns: ``(B, H, W, 3)`` float32 on the CPU.
    :raises ValueError: for anything that is not a floating ``(B, H, W, 3)``.
    """
    check_picture(lab, "opencv_lab_to_rgb")
    lightness, a, b = lab.to("cpu", torch.float32).unbind(-1)
    linear_part = lightness / 903.3
    fy = torch.where(lightness > 8, (lightness + 16) / 116, 7.787 * linear_part + 16 / 116)
    y = torch.where(lightness > 8, fy**3, linear_part)

    def inverse(f: torch.Tensor) -> torch.Tensor:
        return torch.where(f > 0.206893, f**3, (f - 16 / 116) / 7.787)

    xyz = torch.stack([_WHITE[0] * inverse(fy + a / 500), _WHITE[1] * y, _WHITE[2] * inverse(fy - b / 200)], -1)
    linear = _matrix(xyz, _FROM_XYZ).clamp(0, 1)
    return torch.where(linear > 0.0031308, 1.055 * linear.clamp_min(1e-9) ** (1 / 2.4) - 0.055, 12.92 * linear)


def _matrix(pixels: torch.Tensor, rows: tuple[tuple[float, ...], ...]) -> torch.Tensor:
    # channel by channel: a matrix product may be rounded to fewer bits by the linear algebra library
    red, green, blue = pixels.unbind(-1)
    return torch.stack([r * red + g * green + b * blue for r, g, b in rows], -1)


@cache
def _table() -> tuple[int, ...]:
    """The table's numbers, flat: (33, 33, 33, 3), by red, green and blue. Plain numbers, so that none can change."""
    steps = torch.linspace(0, 1, _POINTS, dtype=torch.float64)
    linear = torch.where(steps > 0.04045, ((steps + 0.055) / 1.055) ** 2.4, steps / 12.92)
    xyz = _matrix(torch.cartesian_prod(linear, linear, linear), _TO_XYZ) / torch.tensor(_WHITE, dtype=torch.float64)
    threshold = 216 / 24389
    f = torch.where(xyz > threshold, xyz.clamp_min(1e-12) ** (1 / 3), xyz * (841 / 108) + 16 / 116)
    y, (fx, fy, fz) = xyz[:, 1], f.unbind(1)
    lightness = torch.where(y > threshold, 116 * fy - 16, y * (24389 / 27))
    scaled = [lightness / 100, (500 * (fx - fy) + 128) / 256, (200 * (fy - fz) + 128) / 256]
    return tuple((_ONE * torch.stack(scaled, -1)).round().int().flatten().tolist())


def _look_up(frame: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """(H, W, 3) -> Lab: trilinear in integers, as OpenCV does it."""
    out = torch.empty_like(frame)
    for rows, result in zip(frame.split(256), out.split(256), strict=True):  # eight look-ups hold much memory
        fixed = (rows.clamp(0, 1) * _ONE).round().int()
        # 512 numbers a cell; 16 places inside it. The last point of the table is the end of the last cell.
        cell, inside = (fixed >> 9).clamp_max(_POINTS - 2), fixed
        inside = (inside - (cell << 9)) >> 5
        total = torch.zeros_like(fixed)
        for corner in range(8):
            offset = torch.tensor([corner >> 2, corner >> 1 & 1, corner & 1], dtype=torch.int32)
            weight = torch.where(offset.bool(), inside, 16 - inside).prod(-1, dtype=torch.int32)
            red, green, blue = (cell + offset).unbind(-1)
            index = (red * _POINTS + green) * _POINTS + blue
            total += weight[..., None] * table[index.long()]
        lab = ((total + 2048) >> 12).float() / _ONE
        result.copy_(lab * torch.tensor([100.0, 256.0, 256.0]) - torch.tensor([0.0, 128.0, 128.0]))
    return out
