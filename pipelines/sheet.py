"""Contact sheets: what a run did, in one picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .exemplar import ColorizeResult


def contact_sheet(image: Tensor, reference: Tensor, result: ColorizeResult, height: int = 256) -> Tensor:
    """Input, reference, result, where one place of the input looks, and the reference carried over: (1, h, w, 3)."""
    from ..color import desaturate, resize
    from ..color.heat import side_by_side
    from .attention_map import attention_maps

    maps = attention_maps(result.source, result.reference.gray, image, reference)
    columns = [
        ("input", desaturate(image)),
        ("reference", reference),
        ("result", result.images.cpu()),
        ("attention: from the ring to the bright places", maps.shown),
        ("reference carried over by attention", maps.carried),
    ]
    shown = []
    for label, picture in columns:
        scaled = resize(picture, (height, max(1, round(picture.shape[2] * height / picture.shape[1]))))
        shown.append(_labeled(scaled, label))
    return side_by_side(shown, gap=6)


def _labeled(picture: Tensor, label: str) -> Tensor:
    """A caption below the picture."""
    import numpy as np
    from PIL import Image, ImageDraw

    strip = Image.new("RGB", (picture.shape[2], 18), "white")
    ImageDraw.Draw(strip).text((2, 3), label, fill="black")
    caption = torch.from_numpy(np.asarray(strip).astype(np.float32) / 255)[None]
    return torch.cat([picture, caption], dim=1)
