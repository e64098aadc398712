"""Colors for what an edited copy does not show, by what places look like: in a memory, or in the copy itself."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..color import desaturate, rgb_to_lab
from ..memory.entries import ColorMemory
from ..memory.features import FeatureSource
from ..memory.writing import LEAST, from_references
from .memory import color_by_memory
from .memory_settings import MemorySettings


def looked_up(
    original: Tensor,
    chroma: Tensor,
    sure: Tensor,
    network: FeatureSource,
    asking: MemorySettings,
    *,
    memory: ColorMemory | None = None,
    device: torch.device | None = None,
) -> tuple[Tensor, Tensor]:
    """Chroma of an original's places, and how sure that is; one model call.

    Without a memory one is written of the places that the copy shows: they have the original's own features, so nothing
    of how the copy was redrawn comes between what asks and what answers.

    :param original: (H, W, 3) in 0..1.
    :param chroma: (H, W, 2), the copy's, laid on the original's pixels.
    :param sure: (H, W) in 0..1, where the copy shows the place.
    :param memory: that is asked in the copy's place.
    :param device: where the memory is asked; None is where the features are.
    :returns: (H, W, 2), and (H, W) in 0..1; 0 where there is nothing to look in.
    :raises ValueError: a memory of another network.
    """
    gray = desaturate(original[None])
    features = network.features(gray) if memory is None else None
    if memory is None and features is not None:
        if float(F.adaptive_avg_pool2d(sure[None, None].float(), features.grid).max()) < LEAST:
            return torch.zeros_like(chroma), torch.zeros_like(sure)
        context = asking.features.context
        memory = from_references(
            features, chroma[None], masks=sure[None], context=context, precision="float32", maker=network.name
        )
    assert memory is not None
    # the flow that calls has a saturation and a fallback of its own
    asking = replace(asking, saturation=1.0, fallback_below=0.0)
    found = color_by_memory(network, gray, memory, asking, features=features, device=device)
    return rgb_to_lab(found.images.cpu().float())[0, ..., 1:], found.confidence[0].cpu()
