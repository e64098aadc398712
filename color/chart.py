"""Line charts as pictures: losses on a logarithmic scale, drawn with Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, isfinite, log10
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

#: Blue, orange, green: told apart by color-blind eyes.
_INK = ((0, 90, 181), (213, 94, 0), (0, 128, 96))
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 22, 24


def loss_chart(
    title: str,
    curves: dict[str, Sequence[float]],
    *,
    breaks: Sequence[int] = (),
    length: int | None = None,
    size: tuple[int, int] = (640, 360),
) -> Image:
    """Curves over their index, logarithmic upward.

    :param curves: name -> positive numbers; what is not positive or not finite is passed over.
    :param breaks: indices at which the lines are interrupted and the background marks a boundary.
    :param length: of the horizontal axis, when more is to come.
    :param size: (width, height) in pixels, at least 160 x 100.
    """
    from PIL import Image, ImageDraw

    width, height = size
    chart = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(chart)
    pen.text((_LEFT, 5), title, fill="black")
    finite = [value for curve in curves.values() for value in curve if isfinite(value) and value > 0]
    low, high = (floor(log10(min(finite))), ceil(log10(max(finite)))) if finite else (0, 1)
    high = max(high, low + 1)
    count = max([length or 0, 2, *(len(curve) for curve in curves.values())])

    def at(index: float, value: float) -> tuple[float, float]:
        x = _LEFT + (width - _LEFT - _RIGHT) * index / (count - 1)
        y = height - _BOTTOM - (height - _TOP - _BOTTOM) * (log10(value) - low) / (high - low)
        return x, y

    for exponent in range(low, high + 1):
        y = at(0, 10.0**exponent)[1]
        pen.line([(_LEFT, y), (width - _RIGHT, y)], fill=(225, 225, 225))
        pen.text((6, y - 6), f"1e{exponent:+d}", fill=(90, 90, 90))
    for index in breaks:
        x = at(index - 0.5, 10.0**low)[0]
        pen.line([(x, _TOP), (x, height - _BOTTOM)], fill=(240, 240, 240))
    pen.text((_LEFT, height - 17), "1", fill=(90, 90, 90))
    pen.text((width - _RIGHT - 7 * len(str(count)), height - 17), str(count), fill=(90, 90, 90))
    edges = {0, *breaks}
    for (name, curve), color in zip(curves.items(), _INK * (1 + len(curves) // len(_INK)), strict=False):
        run: list[tuple[float, float]] = []
        for index, value in enumerate([*curve, float("nan")]):
            good = isfinite(value) and value > 0
            if (index in edges or not good) and run:
                _draw_run(pen, run, color)
                run = []
            if good:
                run.append(at(index, value))
        if len(curves) > 1:
            place = list(curves).index(name)
            pen.text((width - _RIGHT - 90 * (len(curves) - place), 5), name, fill=color)
    pen.rectangle([_LEFT, _TOP, width - _RIGHT, height - _BOTTOM], outline=(120, 120, 120))
    return chart


def _draw_run(pen, run: list[tuple[float, float]], color: tuple[int, int, int]) -> None:
    if len(run) == 1:
        (x, y) = run[0]
        pen.ellipse([x - 1.5, y - 1.5, x + 1.5, y + 1.5], fill=color)
    else:
        pen.line(run, fill=color, width=2)


def as_image(picture: Image) -> Tensor:
    """A Pillow picture as (1, H, W, 3) in 0..1."""
    return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255)[None]
