"""When an edit acts: windows as shares of a run, turned into steps as the published programs do.

Prompt-to-prompt (arXiv 2208.01626) and VCT (arXiv 2307.14352, section 3.3) count alike.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

#: A window: its end as a share of the run, or (start, end).
Window = float | tuple[float, float]


def window_bounds(window: Window) -> tuple[float, float]:
    """(start, end) of a window.

    :raises ValueError: shares outside of 0..1, or the end before the start.
    """
    start, end = window if isinstance(window, tuple) else (0.0, window)
    if not 0 <= start <= end <= 1:
        raise ValueError(f"A window runs from {start} to {end} of the run; both must lie in 0..1, in this order.")
    return start, end


def self_active(step: int, steps: int, window: Window) -> bool:
    """Whether self-attention is edited: int(start·N) <= step < int(end·N)."""
    start, end = window_bounds(window)
    return int(steps * start) <= step < int(steps * end)


def cross_share(
    step: int,
    steps: int,
    window: Window,
    columns: int,
    words: Mapping[int, Window] | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """How much of the edited map each column takes: (columns,), 1 inside its window and 0 outside.

    :param words: windows of single columns, in place of the common one.
    :param device: where it is made, number by number: nothing is sent there.
    """
    share = torch.full((columns,), float(cross_active(step, steps, window)), device=device)
    for column, own_window in (words or {}).items():
        share[column] = float(cross_active(step, steps, own_window))
    return share


def cross_active(step: int, steps: int, window: Window) -> bool:
    """Whether cross-attention is edited.

    The published programs count N + 1 places here, so int(0.2·(5 + 1)) = 1 step of 5.
    """
    start, end = window_bounds(window)
    return int(start * (steps + 1)) <= step < int(end * (steps + 1))
