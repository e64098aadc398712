"""Chroma that does not flicker from frame to frame.

A joint bilateral filter (Tomasi and Manduchi, ICCV 1998; Petschnigg et al., SIGGRAPH 2004) along time only: every place
takes the mean of its own (a, b) in the neighboring frames, and frames in which its lightness is another count less. So
what stands still becomes steady, what moves keeps its own color, and nothing is carried over a cut.
"""

from __future__ import annotations

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
    frames = chroma.shape[0]
    if window == 0 or frames == 1:
        return chroma
    out = torch.empty_like(chroma)
    for index in range(frames):
        total = chroma.new_zeros(chroma.shape[1:])
        weights = chroma.new_zeros(*chroma.shape[1:3], 1)
        for other in range(max(0, index - window), min(frames, index + window + 1)):
            near = 1 - abs(other - index) / (window + 1)
            difference = (lightness[other] - lightness[index])[..., None]
            weight = near * torch.exp(-0.5 * (difference / same_lightness) ** 2)
            total += weight * chroma[other]
            weights += weight
        out[index] = total / weights  # a frame's weight for itself is 1
    return out
