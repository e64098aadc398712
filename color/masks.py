"""What a mask must be: one door for the nodes and the command line."""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor

from .pictures import within
from .tensors import FLOATS, check_tensor


@overload
def as_mask(mask: None, name: str) -> None: ...
@overload
def as_mask(mask: Tensor, name: str) -> Tensor: ...


def as_mask(mask: Tensor | None, name: str) -> Tensor | None:
    """A batch of masks from what a mask's input may be given; no mask stays none.

    :param mask: (B, H, W) in 0..1; (H, W) is one mask, and an axis of one channel, (B, 1, H, W) or (B, H, W, 1), is
        taken away. On and off count as 1 and 0. Values a little outside 0..1 are handled as a picture's are, see
        :func:`color.pictures.within`.
    :param name: what the user calls it; messages start with it.
    :returns: (B, H, W) of floats; the mask itself where nothing has to be changed.
    :raises ValueError: anything else, saying what was found, what was expected and what to do.
    """
    if mask is None:
        return None
    check_tensor(mask, name, "a mask (B, H, W)")
    if mask.dtype == torch.bool:
        mask = mask.float()
    elif mask.dtype not in FLOATS:
        raise ValueError(f"{name}: found dtype {mask.dtype}, expected floats in 0..1; divide 8-bit values by 255.")
    return within(_batch(mask, name), name)


def _batch(mask: Tensor, name: str) -> Tensor:
    """(B, H, W) from the shapes that mean masks without doubt."""
    shape = tuple(mask.shape)
    if 0 in shape:
        raise ValueError(
            f"{name}: found an empty mask {shape}, expected at least one pixel; look at the node that made it."
        )
    if mask.ndim == 2:
        return mask[None]
    if mask.ndim == 3:
        return mask
    if mask.ndim == 4:
        if shape[3] == 1 and shape[1] != 1:
            return mask[..., 0]
        if shape[1] == 1 and shape[3] != 1:
            return mask[:, 0]
        if shape[3] in (3, 4):
            raise ValueError(
                f"{name}: found a picture {shape}, expected a mask (B, H, W); put Convert Image to Mask between them."
            )
    raise ValueError(
        f"{name}: found a tensor of shape {shape}, expected a mask (B, H, W); look at the node that made it."
    )
