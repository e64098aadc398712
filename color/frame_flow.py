"""How neighboring frames of a film lie on each other: where each place came from, and how far that is believed.

Two neighbors are close to each other, so there is no global fit as between a picture and its copy (:mod:`.flow`): DIS
optical flow alone, both ways, at a bounded size. A place is believed where going there and back ends where it began
(Sundaram et al., ECCV 2010), where lightness is the same there, and inside the frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .flow import flow_between, one_thread
from .registration import LEAST_SIDE, boxed, comparable, frame_of, grid, opencv

#: Longest side at which motion is looked for. At twice the size DIS takes four times as long.
LONGEST = 256
#: Pixels of that size by which going there and back may miss where a place is half believed, and what is added to them
#: for each pixel of motion.
MISS, MISS_OF_MOTION = 2.0, 0.15
#: Difference of CIE L at which a place is believed 0.6 (one standard deviation), or so many times the usual one, which
#: is that of grain; and the most that is put down to grain.
SAME_LIGHTNESS, GRAINS, MOST_GRAIN = 2.5, 3.0, 5.0
#: Precision below which a bicubic mean could be too little to divide by.
FAINT = 1e-3
#: Most CIE L by which the light of a whole frame may change.
LIGHT = 10.0
#: Mean reliability at which two frames have nothing in common, and from which they are neighbors. It is 0.00 to 0.03
#: over cuts, 0.7 to 0.95 elsewhere.
CHANCE, RELATED = 0.1, 0.25


@dataclass(frozen=True)
class Look:
    """A frame as its neighbors see it.

    :param calm: (h, w), CIE L with its grain averaged out.
    :param plane: lightness made comparable, at the size at which motion is looked for; None without OpenCV, and for
        frames that are too small for motion.
    """

    calm: Tensor
    plane: Tensor | None

    @staticmethod
    def of(lightness: Tensor) -> Look:
        """A frame's look.

        :param lightness: (h, w), CIE L, float32 on the CPU.
        """
        height, width = lightness.shape
        calm = boxed(lightness, 1, 2)
        if opencv() is None or min(height, width) < LEAST_SIDE:
            return Look(calm, None)
        size = frame_of(height, width, LONGEST)
        return Look(calm, comparable(calm if size == (height, width) else _resized(lightness[None], size)[0]))


@dataclass(frozen=True)
class Link:
    """Where a frame's places are in a neighbor.

    :param places: (h, w, 2) float32, x and y in pixels; None where nothing is known to move.
    :param reliability: (h, w) in 0..1.
    """

    places: Tensor | None
    reliability: Tensor

    def carried(self, planes: Tensor) -> Tensor:
        """What is known in a neighbor as it lies in this frame.

        Bicubic, since what goes through many frames would be blurred by each; bilinear where precision falls so
        steeply that a bicubic one would be off.

        :param planes: (C, h, w), precision first, then what it is multiplied with.
        """
        if self.places is None:
            return planes
        fine, plain = _laid(planes, self.places, bicubic=True), _laid(planes[:1], self.places)
        steep = (fine[:1] < 0.5 * plain) | (plain < FAINT)
        return torch.where(steep, _laid(planes, self.places), fine) if steep.any() else fine


def links_between(before: Look, after: Look) -> tuple[Link, Link]:
    """Two neighbors on each other.

    :returns: where the later frame's places were in the earlier one, and where the earlier one's are in the later one.
    """
    if before.plane is None or after.plane is None:
        same = _related(_alike(before.calm, after.calm))
        return Link(None, same), Link(None, same)
    back, on = _flows(before.plane, after.plane)
    return _link(back, on, after, before), _link(on, back, before, after)


def flows_between(before: Look, after: Look) -> tuple[Tensor, Tensor]:
    """Motion of two neighbors, (h, w, 2) each, x and y in pixels: from the later one back, and from the earlier one on.

    All 0 without OpenCV.
    """
    size = (before.calm.shape[0], before.calm.shape[1])
    if before.plane is None or after.plane is None:
        return torch.zeros(*size, 2), torch.zeros(*size, 2)
    back, on = _flows(before.plane, after.plane)
    return _enlarged(back, size), _enlarged(on, size)


def _flows(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    with one_thread():
        return flow_between(after, before), flow_between(before, after)


def _enlarged(way: Tensor, size: tuple[int, int]) -> Tensor:
    """A motion at another size, in its pixels."""
    if tuple(way.shape[:2]) == size:
        return way
    scale = torch.tensor([size[1] / way.shape[1], size[0] / way.shape[0]])
    return _resized(way.movedim(-1, 0), size).movedim(0, -1) * scale


def _link(way: Tensor, return_way: Tensor, here: Look, there: Look) -> Link:
    """From flow (h, w, 2) there and back, at the size at which motion was looked for."""
    size = (here.calm.shape[0], here.calm.shape[1])
    places = grid((way.shape[0], way.shape[1])).float() + way
    miss = (way + _laid(return_way.movedim(-1, 0), places).movedim(0, -1)).norm(dim=-1)
    half = MISS + MISS_OF_MOTION * way.norm(dim=-1)
    believed = 1 / (1 + (miss / half).square())
    if believed.shape != size:
        believed = _resized(believed[None], size)[0]
        places = grid(size).float() + _enlarged(way, size)
    inside = ((places > -0.5) & (places < torch.tensor([size[1] - 0.5, size[0] - 0.5]))).all(-1)
    alike = _alike(here.calm, _laid(there.calm[None], places)[0])
    return Link(places.contiguous(), _related(believed * inside * alike))


def _related(reliability: Tensor) -> Tensor:
    """(h, w): nothing where hardly anything is believed, since the rest is chance."""
    return reliability * min(1.0, max(0.0, (float(reliability.mean()) - CHANCE) / (RELATED - CHANCE)))


def _alike(here: Tensor, there: Tensor) -> Tensor:
    """(h, w) in 0..1: how far two planes of lightness agree, but for a change of light as a whole, and for grain."""
    difference = here - there
    difference = boxed((difference - difference.median().clamp(-LIGHT, LIGHT)).abs(), 1)
    most = min(MOST_GRAIN, max(SAME_LIGHTNESS, GRAINS * float(difference.median())))
    return torch.exp(-0.5 * (difference / most).square())


def _laid(planes: Tensor, places: Tensor, *, bicubic: bool = False) -> Tensor:
    """Planes (C, h, w) at places (H, W, 2) in pixels: (C, H, W)."""
    cv2: Any = opencv()
    way = cv2.INTER_CUBIC if bicubic else cv2.INTER_LINEAR
    values = planes.movedim(0, -1).contiguous().numpy()
    with one_thread():
        laid = cv2.remap(values, places.contiguous().numpy(), None, way, borderMode=cv2.BORDER_REPLICATE)
    return torch.from_numpy(laid).view(*places.shape[:2], len(planes)).movedim(-1, 0)


def _resized(planes: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(planes[None], size, mode="bilinear", antialias=True)[0]
