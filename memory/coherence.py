"""What belongs together in a picture takes one color, and regions take theirs from one source.

Two things that each place cannot know by itself. The picture's own self-attention says which of its places look alike
to the network; a joint bilateral filter (Petschnigg et al. 2004; Kopf et al. 2007) adds what the picture itself says:
places of another lightness or far away have less to do with each other. And where many sources could have given a
place its color, those of the places around tell which of them shows the same thing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .entries import ColorMemory, Made
from .features import Features, Space, joined_keys
from .keys import stored
from .lookup import Found, look_up

#: Difference of lightness (CIE L) and distance (in longest sides of the picture) at which a place counts e^-1/2 times
#: as much, at full locality, and the factor on the network's logits then: lower is nearer to the truth, but leaves less
#: order between errors and the confidence. Chosen on the embedded model's development pairs.
LIGHTNESS, DISTANCE, NETWORK = 6.0, 0.2, 0.8
#: Reach to either side, in longest sides, within which sources are to agree.
WINDOW = 0.2
#: Log of the least share of a source that counts: below it float32 has none.
_LEAST = -69.0


def coherent(
    chroma: Tensor,
    queries: Tensor,
    features: Features,
    lightness: Tensor,
    strength: float,
    locality: float = 0.0,
    context: float = 0.0,
    device: torch.device | None = None,
) -> Tensor:
    """Chroma averaged over places of the picture that belong together.

    :param chroma: (h · w, 2) on the finest grid of ``features``.
    :param queries: (h · w, C) of the picture, as ``features.joined_queries`` gives them.
    :param features: of the one picture.
    :param lightness: (h · w,), CIE L on that grid.
    :param strength: 0..1, share of the average.
    :param locality: 0..1: 0 goes by the network alone, 1 also by lightness and distance.
    :param context: see ``features.on_grid``.
    :param device: where it is computed; None is where the queries are.
    :returns: (h · w, 2), on the CPU.
    """
    if strength <= 0:
        return chroma
    keys = joined_keys(features, context)[0]
    spaces = features.spaces
    if locality > 0:
        asked, answering = _places(lightness, features.grid, locality)
        queries = torch.cat([queries * (1 - locality * (1 - NETWORK)), asked.to(queries)], -1)
        keys = torch.cat([keys, answering.to(keys)], -1)
        spaces = (*spaces, Space("place", 0.0, asked.shape[-1], 1, True))
    made = Made(features.fingerprint, spaces, context)
    count = len(chroma)
    itself = ColorMemory(
        made,
        stored(keys.cpu().contiguous(), made.widths, "float32"),  # else products are rounded in another order
        chroma,
        torch.ones(count),
        torch.zeros(count, dtype=torch.long),
        ("itself",),
    )
    return torch.lerp(chroma, look_up(queries, itself, device=device).chroma, strength)


def _places(lightness: Tensor, grid: tuple[int, int], locality: float) -> tuple[Tensor, Tensor]:
    """(queries, keys), (h · w, 4) each, whose product is −locality · ½ |x − y|², but for what is one query's own.

    x is lightness and place in their units; −½|x − y|² = x·y − ½|y|² − ½|x|².
    """
    height, width = grid
    unit = DISTANCE * max(grid)
    rows, columns = torch.meshgrid(torch.arange(height) / unit, torch.arange(width) / unit, indexing="ij")
    light = lightness.float().cpu()
    x = torch.stack([rows.flatten(), columns.flatten(), (light - light.mean()) / LIGHTNESS], -1)
    one = torch.ones_like(x[:, :1])
    return locality * torch.cat([x, one], -1), torch.cat([x, -0.5 * x.square().sum(-1, keepdim=True)], -1)


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
    device: torch.device | None = None,
) -> Found:
    """Ask a memory, and where it has several sources once more, with what they agree on.

    :param queries: (h · w, C) on ``grid``, as for ``lookup.look_up``; ``top`` and ``device`` too.
    :param strength: see :func:`agreement`; 0 asks once.
    """
    found = look_up(queries, memory, top, device)
    if strength <= 0 or len(memory.sources) < 2:
        return found
    # a source that was not taken along has no entries, and no prior that would matter
    mass = (
        torch.zeros(len(memory.sources)).index_add(0, memory.source.cpu(), memory.weight.float().cpu()).clamp_min(1e-30)
    )
    return look_up(queries, memory, top, device, agreement(found.shares, grid, strength, mass))
