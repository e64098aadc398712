"""Chroma that does not flicker from frame to frame.

A joint bilateral filter (Tomasi and Manduchi, ICCV 1998; Petschnigg et al., SIGGRAPH 2004) along time only: every place
takes the mean of its own (a, b) in the neighboring frames, and frames in which its lightness is another count less. So
what stands still becomes steady, what moves keeps its own color, and nothing is carried over a cut.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import torch

#: Difference of CIE L at which a neighboring frame counts 0.6 (one standard deviation). Film grain is below, an edge
#: that passes by is far above.
SAME_LIGHTNESS = 4.0


def steady_chroma(
    chroma: torch.Tensor, lightness: torch.Tensor, window: int, same_lightness: float = SAME_LIGHTNESS
) -> torch.Tensor:
    """Smooth chroma over the frames of a video.

    :param chroma: ``(B, h, w, 2)``, a and b of consecutive frames.
    :param lightness: ``(B, h, w)``, CIE L of the same frames.
    :param window: frames on each side that take part; 0 returns ``chroma`` itself. Their weight falls linearly to both
        ends.
    :param same_lightness: how much L may differ, above 0.
    :returns: ``(B, h, w, 2)``; no color appears that a place did not have in one of the frames.
    :raises ValueError: for a negative window or shapes that do not fit.
    """
    if window < 0:
        raise ValueError(f"steady_chroma: found a window of {window} frames, expected 0 or more.")
    if chroma.shape[:3] != lightness.shape:
        raise ValueError(
            f"steady_chroma: found chroma {tuple(chroma.shape)} and lightness {tuple(lightness.shape)}, expected (B, "
            "h, w, 2) and (B, h, w); resize one of them."
        )
    if window == 0 or chroma.shape[0] == 1:
        return chroma
    return torch.stack(list(steadied(zip(chroma, lightness, strict=True), window, same_lightness)))


def steadied(
    frames: Iterable[tuple[torch.Tensor, torch.Tensor]], window: int, same_lightness: float = SAME_LIGHTNESS
) -> Iterator[torch.Tensor]:
    """:func:`steady_chroma` for frames that come one after another.

    No more than ``2 * window + 1`` of them are kept. A frame's result comes when ``window`` later frames are there, or
    when there are no more.

    :param frames: chroma (h, w, 2) and lightness (h, w) of each frame, in order.
    :returns: (h, w, 2) for each frame, in order.
    """
    kept: deque[tuple[torch.Tensor, torch.Tensor]] = deque()  # the neighbors of the next result, itself among them
    before = 0  # how many of them come before it
    for frame in frames:
        kept.append(frame)
        if len(kept) > before + window:
            yield _mean(kept, before, window, same_lightness)
            before = _advance(kept, before, window)
    while len(kept) > before:
        yield _mean(kept, before, window, same_lightness)
        before = _advance(kept, before, window)


def _advance(kept: deque[tuple[torch.Tensor, torch.Tensor]], before: int, window: int) -> int:
    """Go on to the next frame; what is too far back for it is let go."""
    if before < window:
        return before + 1
    kept.popleft()
    return before


def _mean(
    kept: deque[tuple[torch.Tensor, torch.Tensor]], place: int, window: int, same_lightness: float
) -> torch.Tensor:
    """(h, w, 2): the weighted mean of some frames' chroma, as one of them sees it."""
    chroma, lightness = kept[place]
    total, weights = chroma.new_zeros(chroma.shape), chroma.new_zeros(*chroma.shape[:2], 1)
    for index, (other, light) in enumerate(kept):
        near = 1 - abs(index - place) / (window + 1)
        difference = (light - lightness)[..., None]
        weight = near * torch.exp(-0.5 * (difference / same_lightness) ** 2)
        total += weight * other
        weights += weight
    return total / weights  # a frame's weight for itself is 1
