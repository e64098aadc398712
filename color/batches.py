"""Batches of pictures: whether numbers fit each other, and work on as many at once as memory allows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from .masks import as_mask

log = logging.getLogger(__name__)

Result = TypeVar("Result")


def check_batch(**pictures: Tensor | None) -> int:
    """The common batch size of tensors whose first axis is the batch; each must have that size or 1.

    :param pictures: tensors under the names used in the message; ``None`` is passed over.
    :returns: the largest batch size.
    :raises ValueError: two tensors have different batch sizes and neither is 1.
    """
    sizes = {name: tensor.shape[0] for name, tensor in pictures.items() if tensor is not None}
    batch = max(sizes.values())
    if any(size not in (1, batch) for size in sizes.values()):
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ValueError(
            f"Batch sizes do not fit: found {listed}; expected the same number everywhere, or 1 for what is shared. "
            "Select as many pictures as the largest batch has, or a single one."
        )
    return batch


def check_masks(mask: Tensor | None, pictures: int, role: str = "") -> Tensor | None:
    """One mask for all pictures, or one for each.

    :param mask: (n, H, W) in 0..1, or what :func:`color.masks.as_mask` takes for it; None for no mask.
    :param pictures: how many pictures there are; 0 where that is not known.
    :param role: whose masks, for the message: "input", "reference"; "" where there is one kind only.
    :returns: (n, H, W).
    :raises ValueError: another number of masks, or not masks.
    """
    kind = f"{role} " if role else ""
    mask = as_mask(mask, f"{kind}mask")
    if mask is not None and pictures and len(mask) not in (1, pictures):
        raise ValueError(
            f"There are {len(mask)} {kind}masks for {pictures} {kind}picture(s); use one for all, or one for each."
        )
    return mask


def part_of(batch: Tensor | None, part: slice) -> Tensor | None:
    """Some pictures of a batch, (n, ...); a single one serves all, nothing stays nothing."""
    return batch if batch is None or batch.shape[0] == 1 else batch[part]


def in_batches(
    pictures: int,
    at_once: int,
    work: Callable[[slice], Result],
    out_of_memory: Callable[[Exception], bool],
) -> Iterator[tuple[slice, Result]]:
    """Work on some pictures after another, on half as many whenever memory runs out.

    :param pictures: how many there are.
    :param at_once: most pictures in one call of ``work``, at least 1.
    :param work: called with each range of pictures, and again with its first half when memory runs out.
    :param out_of_memory: whether an error says that memory ran out.
    :returns: ranges of pictures, in order, and what ``work`` returned for each.
    :raises RuntimeError: what ``work`` raises, where memory is not the reason or one picture alone is too much.
    """
    start = 0
    while start < pictures:
        part = slice(start, min(start + at_once, pictures))
        size = part.stop - part.start
        try:
            result = work(part)
        except RuntimeError as error:
            if not out_of_memory(error) or size == 1:
                raise
            at_once = size // 2
            log.warning("Out of memory; going on with %d picture(s) at once.", at_once)
            continue
        yield part, result
        start = part.stop


def ran_out(error: Exception) -> bool:
    """Whether an error is torch's way to say that memory ran out, on a GPU or on a CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
