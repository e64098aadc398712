"""How steady and how right the colors of a film are. Frames come one after another; few are held.

:func:`cdc` compares the colors of neighboring frames as a whole (Liu et al., TCVC, 2021, arXiv 2110.04562, as its
program computes it), :func:`warp_error` place by place along the motion (Lai et al., ECCV 2018, arXiv 1808.00449),
:func:`ab_errors` each frame with the truth. The first two say nothing of whether colors are right: compare them with
the truth's own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from .frame_flow import Look, flows_between
from .metrics import ab_error
from .registration import grid, sampled

#: Steps in frames whose divergences are averaged by :func:`cdc`.
STEPS = (1, 2, 4)


def cdc(frames: Iterable[Tensor]) -> float:
    """Color distribution consistency: how much the histograms of the channels change. Low is steady.

    Jensen-Shannon divergence (natural logarithm) of the 256-bin histograms of red, green and blue between frames that
    are 1, 2 and 4 apart; the mean over frames, steps and channels.

    :param frames: each (H, W, 3), sRGB in 0..1.
    :returns: 0 to log 2.
    :raises ValueError: for fewer than five frames.
    """
    return cdc_of_shares(map(channel_shares, frames))


def cdc_of_shares(shares: Iterable[Tensor]) -> float:
    """:func:`cdc` of frames that were looked at before.

    :param shares: each (3, 256), as :func:`channel_shares` gives it.
    :raises ValueError: for fewer than five frames.
    """
    last: deque[Tensor] = deque(maxlen=max(STEPS))
    sums, counts = dict.fromkeys(STEPS, 0.0), dict.fromkeys(STEPS, 0)
    for each in shares:
        for step in STEPS:
            if len(last) >= step:
                sums[step] += _divergence(last[-step], each)
                counts[step] += 1
        last.append(each)
    if not all(counts.values()):
        raise ValueError(f"cdc: found {len(last)} frames, expected at least {max(STEPS) + 1}; take a longer shot.")
    return sum(sums[step] / counts[step] for step in STEPS) / len(STEPS)


def channel_shares(frame: Tensor) -> Tensor:
    """(3, 256) float64 of a frame, (H, W, 3) in 0..1: shares of the 8-bit levels of each channel."""
    levels = (frame.detach().cpu().float().clamp(0, 1) * 255).round().long().flatten(0, 1)
    return torch.stack([torch.bincount(channel, minlength=256) for channel in levels.T]).double() / len(levels)


def _divergence(one: Tensor, other: Tensor) -> float:
    middle = (one + other) / 2
    both = sum((torch.xlogy(each, each) - torch.xlogy(each, middle)).sum(-1) for each in (one, other))
    return float(torch.as_tensor(both).mean()) / 2


def warp_error(
    chroma: Iterable[Tensor],
    *,
    lightness: Iterable[Tensor] | None = None,
    flows: Iterable[tuple[Tensor, Tensor]] | None = None,
) -> float:
    """How much the color of what is seen in two neighboring frames changes between them. Low is steady.

    The mean distance in the (a, b) plane over all places of all frames that were seen in the frame before; the
    published measure is that of squares, in RGB.

    :param chroma: (h, w, 2) of each frame, Lab units.
    :param lightness: (h, w) of each frame, CIE L, from which motion is found; what is hidden is told by going there and
        back, and edges of motion are left out, as published.
    :param flows: or for each frame but the first where its pixels were in the frame before, (h, w, 2) in pixels, and
        whether they are seen there, (h, w) bool.
    :returns: Lab units.
    :raises ValueError: neither or both of the two, too few frames, flows that do not fit, or nothing to compare.
    """
    if (lightness is None) == (flows is None):
        raise ValueError("warp_error: expected either lightness or flows; give one of them.")
    ways = _flows(lightness) if lightness is not None else iter(flows or ())
    total, count = 0.0, 0.0
    for before, after in pairwise(chroma):
        way = next(ways, None)
        if way is None or way[0].shape[:2] != after.shape[:2]:
            found = "none" if way is None else f"flow of {tuple(way[0].shape[:2])}"
            raise ValueError(f"warp_error: found {found} for chroma of {tuple(after.shape[:2])}, expected one each.")
        displacement, seen = way
        places = grid((after.shape[0], after.shape[1])).float() + displacement
        laid = sampled(before.float().movedim(-1, 0), places).movedim(0, -1)
        weight = seen.double()
        total += float(((after.float() - laid).norm(dim=-1).double() * weight).sum())
        count += float(weight.sum())
    if not count:
        raise ValueError("warp_error: found nothing that is seen in two frames, expected at least two of one shot.")
    return total / count


def _flows(lightness: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Displacement from each frame to the one before, and where it is neither hidden nor at an edge of motion."""
    for before, after in pairwise(Look.of(plane.float().cpu()) for plane in lightness):
        back, on = flows_between(before, after)
        size = back.shape[:2]
        places = grid((size[0], size[1])).float() + back
        returned = sampled(on.movedim(-1, 0), places).movedim(0, -1)
        lengths = back.square().sum(-1) + returned.square().sum(-1)
        hidden = (back + returned).square().sum(-1) > 0.01 * lengths + 0.5
        across, down = F.pad(back.diff(dim=1), (0, 0, 0, 1)), F.pad(back.diff(dim=0), (0, 0, 0, 0, 0, 1))
        edge = (across.square() + down.square()).sum(-1) > 0.01 * back.square().sum(-1) + 0.002
        inside = ((places >= 0) & (places <= torch.tensor([size[1] - 1, size[0] - 1]))).all(-1)
        yield back, inside & ~hidden & ~edge


def ab_errors(frames: Iterable[Tensor], truth: Iterable[Tensor]) -> list[float]:
    """Mean distance of colors from the true ones in each frame, Lab units.

    :param frames: each (H, W, 3), sRGB in 0..1; ``truth`` the same, of the same size.
    :raises ValueError: for sizes or numbers of frames that do not fit.
    """
    return [float(ab_error(frame[None], true[None])) for frame, true in zip(frames, truth, strict=True)]
