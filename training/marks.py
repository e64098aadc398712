"""Strokes on pictures with known colors, made by chance as a user would: short lines and blobs inside one part of a
thing, in the color that it has or in another one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from comfyui_exemplar.color import fitted_rgb, rgb_to_lab

#: A part is what is connected to a stroke and within these of its color, in (a, b) and in L.
ALIKE = (10.0, 15.0)
#: On a photograph nobody says where a thing ends: all that is connected within these may belong to it.
LOOSE = (20.0, 30.0)
#: Fewest pixels of a part that gets a stroke, of pictures of 128 x 128.
LEAST = 120
#: Chroma of a color that is not the part's own, at least.
VIVID = 40.0
#: Pixels around a thing that are neither it nor outside it: edges are smooth.
EDGE = 2


@dataclass(frozen=True)
class Stroke:
    """One mark.

    :param place: (H, W) bool, what is painted; ``part`` of a thing that it stands for, which holds it; ``thing``.
    :param chroma: (2,), a and b of the paint.
    :param own: whether that is the part's own color.
    """

    place: Tensor
    part: Tensor
    thing: Tensor
    chroma: Tensor
    own: bool


@dataclass(frozen=True)
class Marked:
    """Strokes on one picture.

    :param painted: (1, H, W, 3) in 0..1, the gray picture with the strokes.
    :param outside: (H, W) bool, what belongs to no thing that was marked.
    """

    painted: Tensor
    strokes: tuple[Stroke, ...]
    outside: Tensor

    @property
    def place(self) -> Tensor:
        """(1, H, W), all strokes."""
        return torch.stack([stroke.place for stroke in self.strokes]).any(0)[None].float()


def mark(truth: Tensor, gray: Tensor, things: Tensor, random: np.random.Generator, *, own: bool) -> Marked | None:
    """One or two strokes on the largest parts of a thing; None where no part is large enough.

    :param truth: (H, W, 3) in 0..1, ``gray`` likewise.
    :param things: (H, W), which thing is where, -1 for ground; all 0 on a photograph.
    :param own: whether strokes have the parts' own colors.
    """
    photograph = bool((things == 0).all())
    lab = rgb_to_lab(truth[None])[0]
    numbers = things[things >= 0].unique().tolist()
    thing = things == numbers[random.integers(len(numbers))]
    strokes, outside = [], torch.ones_like(thing)
    for at, part in _parts(lab, thing, random)[:2]:
        place = _stroke(part, random)
        chroma = lab[place][:, 1:].mean(0)
        strokes.append(Stroke(place, part, thing, chroma if own else _other(chroma, random), own))
        reached = flood(_alike(lab, at, LOOSE), at) if photograph else thing
        outside &= ~grown(reached, EDGE)
    if not strokes:
        return None
    painted = gray.clone()
    for stroke in strokes:
        painted[stroke.place] = aimed(gray, stroke.chroma)[stroke.place]
    return Marked(painted[None], tuple(strokes), outside)


def aimed(gray: Tensor, chroma: Tensor) -> Tensor:
    """(H, W, 3) in 0..1: a gray picture all in one color, as far as sRGB has it at each lightness."""
    lightness = rgb_to_lab(gray[None])[..., :1]
    return fitted_rgb(torch.cat([lightness, chroma.expand(*lightness.shape[:3], 2)], -1))[0]


def flood(allowed: Tensor, start: tuple[int, int]) -> Tensor:
    """(H, W) bool: what is connected to a pixel within ``allowed``, corners included."""
    reached = torch.zeros_like(allowed)
    reached[start] = True
    while True:
        new = grown(reached, 1) & allowed | reached
        if torch.equal(new, reached):
            return reached
        reached = new


def _parts(lab: Tensor, thing: Tensor, random: np.random.Generator) -> list[tuple[tuple[int, int], Tensor]]:
    """(a pixel, what belongs to it) of the parts of a thing that are large enough, the largest first."""
    left, found = thing.clone(), []
    while int(left.sum()) >= LEAST:
        inner = left.nonzero()
        at = tuple(inner[int(random.integers(len(inner)))].tolist())
        part = flood(_alike(lab, at, ALIKE) & left, at)
        left &= ~part
        if int(part.sum()) >= LEAST and bool(shrunk(part, 2).any()):
            found.append((at, part))
    return sorted(found, key=lambda each: -int(each[1].sum()))


def _alike(lab: Tensor, at: tuple[int, int], within: tuple[float, float]) -> Tensor:
    apart = lab - lab[at]
    return (apart[..., 1:].norm(dim=-1) < within[0]) & (apart[..., 0].abs() < within[1])


def _stroke(part: Tensor, random: np.random.Generator) -> Tensor:
    """A blob or a line, (H, W) bool, where the part is widest."""
    inner, depth = part, 0
    while bool((smaller := shrunk(inner, 1)).any()):
        inner, depth = smaller, depth + 1
    y, x = inner.nonzero()[int(random.integers(int(inner.sum())))].tolist()
    rows, columns = (torch.arange(size)[shape] for size, shape in zip(part.shape, ((..., None), (None,)), strict=True))
    if random.random() < 0.5:
        return ((rows - y) ** 2 + (columns - x) ** 2 <= min(depth, 4) ** 2) & part
    safe, angle = shrunk(part, 1), random.uniform(0, math.pi)
    place = torch.zeros_like(part)
    for way in (1, -1):
        for step in range(3 * depth):
            py, px = round(y + way * step * math.sin(angle)), round(x + way * step * math.cos(angle))
            if not (0 <= py < part.shape[0] and 0 <= px < part.shape[1] and bool(safe[py, px])):
                break
            place[py, px] = True
    return grown(place, 1) & part


def _other(chroma: Tensor, random: np.random.Generator) -> Tensor:
    """Another hue, a third to two thirds of the circle away."""
    angle = math.atan2(float(chroma[1]), float(chroma[0])) + random.uniform(2 * math.pi / 3, 4 * math.pi / 3)
    return torch.tensor([math.cos(angle), math.sin(angle)]) * max(VIVID, float(chroma.norm()))


def grown(place: Tensor, by: int) -> Tensor:
    """(H, W) bool with so many pixels more all around."""
    return F.max_pool2d(place[None, None].float(), 2 * by + 1, 1, by)[0, 0] > 0


def shrunk(place: Tensor, by: int) -> Tensor:
    """(H, W) bool without its outermost pixels."""
    # the world beyond the picture counts as the part, too
    return F.max_pool2d((~place)[None, None].float(), 2 * by + 1, 1, by)[0, 0] == 0
