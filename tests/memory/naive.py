"""Color memories the slow way: whole maps of queries x entries, and small values to try them on."""

import torch
import torch.nn.functional as F

from comfyui_exemplar.memory.features import Features, Space

SPACES = (Space("output.3", 0.1, 8, 2, False), Space("output.4", 0.1, 4, 1, True), Space("output.5", 0.1, 4, 1, True))
GRIDS = ((3, 4), (6, 8), (6, 8))


def features(pictures=1, seed=0, spread=2.0, grids=GRIDS, fingerprint="toy"):
    random = torch.Generator().manual_seed(seed)

    def side():
        return tuple(
            spread * torch.randn(pictures, h * w, space.width, generator=random)
            for space, (h, w) in zip(SPACES, grids, strict=True)
        )

    return Features(fingerprint, SPACES, side(), side(), grids)


def chroma(pictures=1, height=12, width=16, seed=0):
    return 80 * (torch.rand(pictures, height, width, 2, generator=torch.Generator().manual_seed(seed)) - 0.5)


def enlarged(tokens, grid, finest):
    planes = tokens.unflatten(1, grid).movedim(-1, 1)
    return F.interpolate(planes, finest, mode="bilinear").flatten(2).transpose(1, 2)


def logits(asking, answering, coarse, fine):
    """(N, M): each space's logits averaged over heads and over the spaces of its kind, divided by its temperature."""
    total = 0
    for i, (space, grid) in enumerate(zip(asking.spaces, asking.grids, strict=True)):
        q = enlarged(asking.queries[i], grid, asking.grid)[0].unflatten(-1, (space.heads, -1))
        k = enlarged(answering.keys[i], answering.grids[i], answering.grid)[0].unflatten(-1, (space.heads, -1))
        heads = [q[:, h] @ k[:, h].T / q.shape[-1] ** 0.5 for h in range(space.heads)]
        kind = sum(other.fine == space.fine for other in asking.spaces)
        total = total + sum(heads) / space.heads / kind / (fine if space.fine else coarse)
    return total


def attention(queries, memory):
    """(N, M): weights of each query over all entries."""
    keys = memory.keys.floats()
    return (queries.float() @ keys.T + memory.weight.log()).softmax(-1)
