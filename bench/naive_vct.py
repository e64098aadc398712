"""Pivot turning inversion written down as it is told, for comparison."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from comfyui_exemplar.diffusion.inversion import Inversion, round_trip_error
from comfyui_exemplar.diffusion.pivot import PivotOptions, way_back
from comfyui_exemplar.diffusion.sampling import guide, to_eps


def advance_and_search(
    predict, inversion: Inversion, empty: Tensor, options: PivotOptions, *, share_conditional: bool
) -> tuple[list[Tensor], None, float]:
    """Guidance is one call of two rows, in every iteration and to advance.

    :param share_conditional: the published program's saving: in the iterations the conditional row is computed once.
    :returns: contexts (1, tokens, width), one a step; no way to replay; reconstruction error.
    """
    levels, targets = way_back(inversion)
    x, context, found = targets[0], empty.clone(), []
    for i, (here, there) in enumerate(pairwise(levels)):

        def both(at: Tensor, text: Tensor, here=here) -> tuple[Tensor, Tensor]:
            return predict(torch.cat([at, at]), here, torch.cat([text, empty])).chunk(2)

        context = context.detach().requires_grad_(True)
        optimizer = torch.optim.Adam([context], lr=options.rate(i))
        with torch.no_grad():
            kept = predict(x, here, empty) if share_conditional else None
        for _ in range(options.iterations):
            plain, steered = (predict(x, here, context), kept) if share_conditional else both(x, context)
            landed = x + to_eps(x, here, guide(steered, plain, options.cfg)) * (there - here)
            loss = ((landed - targets[i + 1]) / (1 + there**2) ** 0.5).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if float(loss.detach()) < options.threshold(i):
                break
        with torch.no_grad():
            plain, steered = both(x, context)
            x = x + to_eps(x, here, guide(steered, plain, options.cfg)) * (there - here)
        found.append(context.detach().clone())
    error = round_trip_error(inversion.plan.to_clean(targets[-1]), inversion.plan.to_clean(x))
    return found, None, error
