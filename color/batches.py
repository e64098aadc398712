"""Batches of pictures: whether numbers fit each other, and work on as many at once as memory allows."""

from __future__ import annotations

import errno
import logging
import re
import traceback
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from .devices import empty_cache
from .masks import as_mask

log = logging.getLogger(__name__)

Result = TypeVar("Result")

#: How allocators and libraries under torch say in an ordinary error that memory ran out. Of each, where it comes from.
_SAID = re.compile(
    "|".join(
        (
            r"out of memory",  # CUDA, HIP, MPS, XPU, NPU: "CUDA out of memory.", "CUDA error: out of memory"
            r"DefaultCPUAllocator",  # "can't allocate memory" on Linux and macOS, "not enough memory" on Windows
            r"(can't|cannot|could not|failed to|unable to) allocate (memory|tensor|private MTLBuffer|\d+ bytes)",
            r"not enough (GPU |video |device )*memory",  # DirectML, Level Zero
            r"insufficient memory",  # OpenCV
            r"_ALLOC_FAILED",  # cuBLAS, cuDNN, cuFFT, cuSOLVER, cuSPARSE, hipBLAS: "CUBLAS_STATUS_ALLOC_FAILED"
            r"_(DEVICE|HOST)_ALLOCATION_FAILED",  # cuDNN 9
            r"rocblas_status_memory_error|miopenStatusAllocFailed",  # ROCm
            r"ERROR_OUT_OF_(DEVICE_MEMORY|HOST_MEMORY|RESOURCES)",  # Level Zero and OpenCL under XPU, Vulkan
            r"Invalid buffer size",  # Metal, for a single buffer above its limit
            r"bad[_ ]alloc(ation)?\b",  # the C++ library's, GNU and Microsoft
            r"os error 12\b",  # ENOMEM in libraries written in Rust, as safetensors
        )
    ),
    re.IGNORECASE,
)

#: What torch's accelerators call this error by number.
_CODE = 2


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


def check_masks(mask: Tensor | None, pictures: int, name: str = "mask") -> Tensor | None:
    """One mask for all pictures, or one for each.

    :param mask: (n, H, W) in 0..1, or what :func:`color.masks.as_mask` takes for it; None for no mask.
    :param pictures: how many pictures there are; 0 where that is not known.
    :param name: what the user calls it; messages start with it.
    :returns: (n, H, W).
    :raises ValueError: another number of masks, or not masks.
    """
    mask = as_mask(mask, name)
    if mask is not None and pictures:
        check_count(len(mask), pictures, name)
    return mask


def check_count(found: int, pictures: int, name: str) -> None:
    """Whether there is one of something for all pictures, or one for each.

    :param name: what the user calls it; the message starts with it.
    :raises ValueError: another number.
    """
    if found not in (1, pictures):
        expected = "one" if pictures == 1 else f"one for all, or {pictures}"
        raise ValueError(
            f"{name}: found {found} for {pictures} picture(s), expected {expected}; select as many as there are "
            "pictures, or a single one."
        )


def part_of(batch: Tensor | None, part: slice) -> Tensor | None:
    """Some pictures of a batch, (n, ...); a single one serves all, nothing stays nothing."""
    return batch if batch is None or batch.shape[0] == 1 else batch[part]


class Batches:
    """Work on as many pictures at once as memory allows, which is remembered from one call to the next.

    :param at_once: most pictures in one call of the work, at least 1.
    :param out_of_memory: whether an error says that memory ran out.
    :param things: what they are called, for the log.
    :param on_fewer: called with the first picture that is not done yet and the new number at once, whenever that falls.
    """

    def __init__(
        self,
        at_once: int,
        out_of_memory: Callable[[Exception], bool],
        things: str = "picture(s)",
        on_fewer: Callable[[int, int], None] | None = None,
    ) -> None:
        self.at_once, self.out_of_memory, self.things, self.on_fewer = at_once, out_of_memory, things, on_fewer
        self._told = False

    def of(self, pictures: int, work: Callable[[slice], Result]) -> Iterator[tuple[slice, Result]]:
        """Work on some pictures after another, on half as many whenever memory runs out.

        It is said once, when it is known how many do.

        :param pictures: how many there are.
        :param work: called with each range of pictures, and again with its first half when memory runs out.
        :returns: ranges of pictures, in order, and what ``work`` returned for each.
        :raises Exception: what ``work`` raises, where memory is not the reason or one picture alone is too much.
        """
        start, fell = 0, False
        while start < pictures:
            part = slice(start, min(start + self.at_once, pictures))
            size = part.stop - part.start
            try:
                result = work(part)
            except Exception as error:
                if size == 1 or not self.out_of_memory(error):
                    raise
                self.at_once, fell = size // 2, True
            else:
                if fell:
                    level = logging.INFO if self._told else logging.WARNING
                    log.log(level, "Out of memory; going on with %d %s at once.", size, self.things)
                    self._told, fell = True, False
                yield part, result
                del result  # the next ones may need its memory
                start = part.stop
                continue
            if self.on_fewer is not None:
                self.on_fewer(start, self.at_once)


def in_batches(
    pictures: int,
    at_once: int,
    work: Callable[[slice], Result],
    out_of_memory: Callable[[Exception], bool],
    on_fewer: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[slice, Result]]:
    """:meth:`Batches.of` for a single time."""
    return Batches(at_once, out_of_memory, on_fewer=on_fewer).of(pictures, work)


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out, a GPU's or the computer's, whoever it comes from."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, (ValueError, LookupError, TypeError)) or not isinstance(error, Exception):
        return False  # what a check says may quote a file's name
    accelerator = getattr(torch, "AcceleratorError", None)
    if accelerator is not None and isinstance(error, accelerator) and getattr(error, "error_code", None) == _CODE:
        return True
    return bool(_SAID.search(str(error)))


def let_go(error: BaseException) -> None:
    """Drop what the failed work of an error still holds, so that it can be freed: its frames keep all their tensors."""
    seen: BaseException | None = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__cause__ or seen.__context__


def freed(error: Exception, device: torch.device | None = None) -> bool:
    """Whether an error says that memory ran out; if so, what the failed work held is freed.

    :param device: that gets the freed memory back from torch's allocator.
    """
    if not ran_out(error):
        return False
    let_go(error)
    if device is not None:
        empty_cache(device)
    return True
