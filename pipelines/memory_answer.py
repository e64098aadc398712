"""What a memory answers for one picture: chroma on the features' grid, and how it is spread."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..memory.agreement import agreed
from ..memory.entries import ColorMemory
from ..memory.features import Features, joined_queries
from ..memory.lookup import Found, look_up
from ..memory.writing import from_references
from .memory_settings import MemorySettings

#: Spread of the found chroma (CIE Lab) at which a place is half sure. So calibrated, the confidence is about the share
#: of places whose color is within 15 of the true one: on held-out pairs 0.97, 0.74, 0.61, 0.39, 0.20 and 0.11 of the
#: places with a spread of 1, 4, 12, 25, 35 and 50.
HALF_SURE = 20.0
#: Shorter side of a grid from which on every second place, in both directions, stands for those beside it.
FEWEST = 16


@dataclass(frozen=True)
class Answer:
    """Of one picture.

    :param chroma: (1, h, w, 2), a and b of CIE Lab, on the features' grid.
    :param found: what the memory said of the h · w places, before places that look alike took the same color.
    :param queries: (h · w, C), that were asked.
    """

    chroma: Tensor
    found: Found
    queries: Tensor


def answered(
    features: Features,
    memory: ColorMemory,
    settings: MemorySettings,
    device: torch.device | None = None,
    prior: Tensor | None = None,
    step: int = 1,
) -> Answer:
    """Ask a memory for one picture.

    :param features: of one picture.
    :param memory: with at least one entry.
    :param device: where the memory is asked; None is where the features are.
    :param prior: (sources,), added to the logits of each source's entries; None adds nothing.
    :param step: see ``memory.agreement.agreed``; above 1 the picture's own places are a quarter as many, too.
    """
    context, grid = settings.features.context, features.grid
    queries = joined_queries(features, settings.temperature_coarse, settings.temperature_fine, context)[0]
    found = agreed(queries, grid, memory, settings.agreement, settings.top, settings.most, device, prior, step)
    chroma = found.chroma
    if settings.coherence > 0:
        # the picture as a memory of its own answer: what attends to each other there belongs together
        itself = from_references(features, chroma.view(1, *grid, 2), context=context, precision="float32")
        if step > 1 and min(grid) >= FEWEST:
            itself = itself.take(torch.arange(len(itself)).view(grid)[::2, ::2].flatten())
        chroma = torch.lerp(chroma, look_up(queries, itself, device=device).chroma, settings.coherence)
    return Answer(chroma.view(1, *grid, 2), found, queries)


def confidence(spread: Tensor) -> Tensor:
    """How sure a memory is of a color, 0..1, from the spread of chroma among what it matched."""
    return 1 / (1 + (spread / HALF_SURE).square())
