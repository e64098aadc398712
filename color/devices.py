"""Devices that torch computes on, whoever makes them: which there are, and what each can be asked.

Torch has one module a kind (``torch.cuda``, which ROCm uses as well, ``torch.xpu``, ``torch.mps``, ``torch.npu``), and
they do not all answer the same questions. Here every question has an answer for a kind that does not know: None, or
nothing happens. No other place of the pack asks for a kind by its name. Random numbers are none of a device's
business: they are drawn on the CPU and sent, so that a seed means the same everywhere.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch

#: Kinds of accelerators, the likelier ones first. "privateuseone" is what DirectML and others go by.
KINDS = ("cuda", "xpu", "mps", "npu", "mlu", "musa", "mtia", "hpu", "privateuseone")

#: What has to be imported before torch knows a kind that is not its own.
_COMES_WITH = {"npu": "torch_npu", "mlu": "torch_mlu", "musa": "torch_musa", "privateuseone": "torch_directml"}

#: How torch says that an operation does not know a device or a dtype, that one is missing, or not compiled in.
_REFUSALS = (RuntimeError, AssertionError, TypeError, ValueError, ImportError, AttributeError)


def devices() -> tuple[str, ...]:
    """Names of the devices that torch finds: ``cpu``, then every accelerator, ``cuda:0``, ``cuda:1``, ``mps`` ..."""
    found = ["cpu"]
    for kind in KINDS:
        module = _module(kind)
        available = getattr(module, "is_available", None)
        if available is None or not available():
            continue
        count = _ask(module, "device_count")
        found += [kind] if kind == "mps" else [f"{_own_name(kind)}:{i}" for i in range(1 if count is None else count)]
    return tuple(found)


def best_device() -> torch.device:
    """The first accelerator that torch finds, else the CPU."""
    return torch.device((*devices(), "cpu")[1])


def find_device(name: str) -> torch.device:
    """A device that is really there, by its name; ``auto`` is :func:`best_device`.

    :raises ValueError: there is none; the message says why, and which there are.
    """
    if name == "auto":
        return best_device()
    with suppress(ImportError):
        importlib.import_module(_COMES_WITH.get(name.partition(":")[0], "torch"))
    reason = "torch knows no such device"
    with suppress(RuntimeError):
        device = torch.device(name)
        try:
            torch.zeros(1, device=device).cpu()  # and back: some devices hold no numbers
            return device
        except _REFUSALS as error:
            reason = _reason(error)
    raise ValueError(f"can't be used here ({reason}); torch finds {', '.join(devices())}")


def check_dtype(device: torch.device, dtype: torch.dtype) -> None:
    """Whether a device computes in a dtype.

    :raises ValueError: it does not; the message says why.
    """
    try:
        one = torch.ones(2, 2, device=device, dtype=dtype)
        (one @ one + one.softmax(-1)).float().cpu()
    except _REFUSALS as error:
        raise ValueError(f"can't be used on {device} ({_reason(error)})") from None


def is_bfloat16_fast(device: torch.device) -> bool:
    """Whether a device has bfloat16 in its hardware; elsewhere it is emulated, and slower than float32."""
    if device.type == "cpu":
        return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
    module = _module(device.type)
    try:
        return bool(_ask(module, "is_bf16_supported", including_emulation=False))
    except TypeError:  # of kinds that emulate nothing
        return bool(_ask(module, "is_bf16_supported"))


def device_name(device: torch.device) -> str:
    """What a device is called by its maker, or its kind; for the CPU how many threads torch uses."""
    if device.type == "cpu":
        return f"{torch.get_num_threads()} CPU thread(s)"
    said = _ask(_module(device.type), "get_device_name", device)
    return f"{device} ({said})" if said else str(device)


def free_memory(device: torch.device) -> int | None:
    """Bytes that torch can still have on a device, what its allocator keeps ready included; None where nobody knows."""
    module = _module(device.type)
    if device.type == "mps":
        limit, used = _ask(module, "recommended_max_memory"), _ask(module, "current_allocated_memory")
        return None if limit is None or used is None else max(0, limit - used)
    known = _ask(module, "mem_get_info", device)
    if known is None:
        return None
    kept, used = _ask(module, "memory_reserved", device), _ask(module, "memory_allocated", device)
    return int(known[0]) + (0 if kept is None or used is None else max(0, kept - used))


def peak_memory(device: torch.device) -> int | None:
    """The most bytes that tensors had on a device since :func:`forget_peak`; None where nobody counts."""
    return _ask(_module(device.type), "max_memory_allocated", device)


def forget_peak(device: torch.device) -> None:
    """Count the peak anew."""
    _ask(_module(device.type), "reset_peak_memory_stats", device)


def empty_cache(device: torch.device) -> None:
    """Give memory that torch's allocator keeps ready back to the device."""
    empty = getattr(_module(device.type), "empty_cache", None)
    if empty is not None:
        empty()


def wait_for(device: torch.device) -> None:
    """Wait until a device has done all that it was told, for clocks; the CPU has.

    :raises RuntimeError: what went wrong there meanwhile.
    """
    wait = getattr(_module(device.type), "synchronize", None)
    if wait is not None:
        wait(*([] if device.type == "mps" else [device]))


def strip_pixels(device: torch.device) -> int:
    """Pixels that arithmetic works on at once: what keeps accelerators busy, and what a CPU's shared cache holds.

    Fewer would fit a core's own cache, but each step costs some microseconds to begin: 2^15 take a fifth longer.
    """
    return 2**17 if device.type == "cpu" else 2**22


def _module(kind: str) -> Any:
    """Torch's module of a kind of device; None for the CPU and for kinds that have none."""
    return None if kind == "cpu" else getattr(torch, _own_name(kind), None)


def _own_name(kind: str) -> str:
    """The name that whoever uses torch's spare kind of device gave it; any other kind's own."""
    return torch._C._get_privateuse1_backend_name() if kind == "privateuseone" else kind


def _ask(module: Any, question: str, *about: Any, **more: Any) -> Any:
    """What a module's function returns; None where it has none, or it does not work."""
    function: Callable[..., Any] | None = getattr(module, question, None)
    if function is None:
        return None
    try:
        return function(*about, **more)
    except (RuntimeError, AssertionError):  # not compiled in, or not of this device
        return None


def _reason(error: Exception) -> str:
    """The first sentence of what torch says, which may go on for a screen."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].split(". ")[0].rstrip(".")
