"""Pages: the same things in another arrangement each time, as in a comic, and one reference of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from comfyui_exemplar.color import desaturate

from .drawings import Drawings
from .pairs import SIZE, doubles, fitting_pairs

#: Things on a page; the smallest and the largest, in halves of a page.
SIZES = (0.7, 1.0)
#: Side to which a thing is brought, so that its places are the same on all pages.
SIDE = 48


@dataclass(frozen=True)
class Pages:
    """Pages of two things by one hand, and one reference of them by another.

    :param pictures: (n, SIZE, SIZE, 3) in 0..1; ``reference`` (1, SIZE, SIZE, 3).
    :param things: (n, SIZE, SIZE), 0 and 1 for the things, -1 for ground; ``reference_things`` (1, SIZE, SIZE).
    :param boxes: of every page and thing its left, top, side, and whether it is mirrored.
    """

    name: str
    pictures: Tensor
    things: Tensor
    boxes: tuple[tuple[tuple[int, int, int, bool], ...], ...]
    reference: Tensor
    reference_things: Tensor

    @property
    def gray(self) -> Tensor:
        """What is to be colored, (n, SIZE, SIZE, 3)."""
        return desaturate(self.pictures, "rec601_8bit")

    def straightened(self, values: Tensor, thing: int) -> Tensor:
        """One thing of all pages at one size and the same way around.

        :param values: (n, SIZE, SIZE, C).
        :returns: (n, SIDE, SIDE, C).
        """
        found = []
        for page, boxes in zip(values, self.boxes, strict=True):
            left, top, side, mirrored = boxes[thing]
            cut = page[top : top + side, left : left + side].movedim(-1, 0)[None]
            cut = torch.nn.functional.interpolate(cut, (SIDE, SIDE), mode="bilinear", antialias=True)[0].movedim(0, -1)
            found.append(cut.flip(1) if mirrored else cut)
        return torch.stack(found)


def draw_pages(drawings: Drawings, split: str, *, stories: int, pages: int, seed: int) -> list[Pages]:
    """``stories`` different pairs of things, each on ``pages`` pages.

    Raises ValueError if the split has too few fitting drawings.
    """
    random = np.random.default_rng(seed)
    fitting, looks = fitting_pairs(drawings, split, random)
    found = []
    for (name, (a, b)), (other, (c, d)) in doubles(fitting, looks, stories, random):
        made = [_page(drawings, (a, c), random) for _ in range(pages)]
        reference, there, _ = _page(drawings, (b, d), random)
        pictures, things = (torch.stack([page[i] for page in made]) for i in range(2))
        boxes = tuple(page[2] for page in made)
        found.append(Pages(f"{name}+{other}", pictures, things, boxes, reference[None], there[None]))
    return found


def _page(drawings: Drawings, rows: tuple[int, ...], random: np.random.Generator) -> tuple[Tensor, Tensor, tuple]:
    """(picture, things, boxes) of some drawings side by side, in any order, size and height, some of them mirrored."""
    canvas = Image.new("RGB", (SIZE, SIZE), (255,) * 3)
    things = np.full((SIZE, SIZE), -1)
    room, slots = SIZE // len(rows), random.permutation(len(rows))
    boxes = []
    for number, row in enumerate(rows):
        side = int(room * random.uniform(*SIZES))
        left = int(slots[number]) * room + int(random.integers(0, room - side + 1))
        top = int(random.integers(0, SIZE - side + 1))
        mirrored = bool(random.random() < 0.5)
        picture = drawings.pictures[row][:, ::-1] if mirrored else drawings.pictures[row]
        drawing = Image.fromarray(np.ascontiguousarray(picture)).resize((side, side), Image.Resampling.LANCZOS)
        canvas.paste(drawing, (left, top), drawing)
        inside = np.asarray(drawing.getchannel("A")) > 128
        things[top : top + side, left : left + side][inside] = number
        boxes.append((left, top, side, mirrored))
    return torch.from_numpy(np.asarray(canvas).copy()).float() / 255, torch.from_numpy(things), tuple(boxes)
