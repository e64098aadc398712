"""Regions take their colors from one source.

Where many sources could have given a place its color, those of the places around tell which of them shows the same
thing.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .entries import ColorMemory
from .lookup import Found, look_up, shortlisted

#: Reach to either side, in longest sides, within which sources are to agree.
WINDOW = 0.2
#: Log of the least share of a source that counts: below it float32 has none.
_LEAST = -69.0


def agreement(shares: Tensor, grid: tuple[int, int], strength: float, mass: Tensor) -> Tensor:
    """How much the places around each place speak for each source, to be added to the logits of its entries.

    The mean of log p(place | source) over a window, times ``strength``, but for what all sources share: as if places
    there were told apart by the same source, each with a part of its evidence. A source must so explain a region, not
    scattered places; that it has few entries, or counts little, is no evidence against it.

    :param shares: (h · w, sources), attention on each source (``lookup.Found``).
    :param grid: (h, w).
    :param strength: 0 adds nothing.
    :param mass: (sources,), sum of the weights of each source's entries.
    :returns: (h · w, sources).
    """
    logs = shares.float().log().clamp_min(_LEAST) - mass.float().log()
    reach = max(1, round(WINDOW * max(grid)))
    planes = F.pad(logs.T.unflatten(1, grid)[None], (reach,) * 4, mode="replicate")
    return strength * F.avg_pool2d(planes, 2 * reach + 1, stride=1)[0].flatten(1).T


def agreed(
    queries: Tensor,
    grid: tuple[int, int],
    memory: ColorMemory,
    strength: float,
    top: int = 0,
    most: int = 0,
    device: torch.device | None = None,
    prior: Tensor | None = None,
    step: int = 1,
) -> Found:
    """Ask a memory, and where it has several sources once more, with what they agree on.

    :param queries: (h · w, C) on ``grid``, as for ``lookup.look_up``; ``top`` and ``device`` too.
    :param most: see ``lookup.shortlisted``.
    :param strength: see :func:`agreement`; 0 asks once.
    :param prior: (sources,), added to the logits of each source's entries; None adds nothing.
    :param step: the first time only every so many places are asked, in both directions: what they agree on is a mean
        over many of them.
    :returns: ``match`` says how alike the best entry is, without what speaks for its source.
    """
    chosen = shortlisted(queries, grid, memory, most, device, prior)
    before = None if prior is None else prior[None]
    if strength <= 0 or len(memory.sources) < 2:
        return look_up(queries, chosen, top, device, before)
    some = queries.unflatten(0, grid)[::step, ::step]
    coarse = (some.shape[0], some.shape[1])
    some = some.flatten(0, 1)
    found = look_up(some, chosen, top, device, before)
    # of all entries: those on the shortlist were chosen by what they match
    mass = torch.zeros(len(memory.sources)).index_add(0, memory.source.cpu(), memory.weight.float().cpu())
    if prior is not None:  # a source that counts little here is no evidence against itself
        mass = mass * prior.cpu().exp()
    spoken = agreement(found.shares, coarse, strength, mass.clamp_min(1e-30))
    if coarse != grid:
        spoken = F.interpolate(spoken.T.unflatten(1, coarse)[None], grid, mode="bilinear")[0].flatten(1).T
    added = spoken if before is None else spoken + before.to(spoken)
    found = look_up(queries, chosen, top, device, added)
    source = chosen.source.cpu()[found.best]
    return replace(found, match=found.match - spoken.cpu().gather(-1, source[:, None])[:, 0])
