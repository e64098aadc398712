"""The machine that a bench runs on: its device and dtype, its clock, and the memory that it counts."""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from comfyui_exemplar.color.devices import (
    check_dtype,
    device_name,
    empty_cache,
    find_device,
    forget_peak,
    peak_memory,
    wait_for,
)

DTYPES = ("float32", "float16", "bfloat16")
MIB, GIB = 2**20, 2**30
#: What a GPU is to reach, beside the numbers: how much faster than the naive program, how much more than a plain run.
SPEED_GOAL, PEAK_GOAL = 5.0, 1.15

#: (weights, what a plain run needs beside them) in bytes, in a dtype.
Needs = Callable[[torch.dtype], tuple[int, int]]


def add_options(parser: argparse.ArgumentParser) -> None:
    """``--device`` and ``--dtype``."""
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, xpu, mps ... or auto (default: cpu)")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="of the network (default: float32)")


@dataclass(frozen=True)
class Machine:
    """Where a bench runs, and in which dtype."""

    device: torch.device
    dtype: torch.dtype

    def __str__(self) -> str:
        """For headings: dtype, device and its name, torch's version."""
        short = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}[self.dtype]
        return f"{short}, {device_name(self.device)}, torch {torch.__version__}"

    def best(self, run: Callable[[], object], repeat: int) -> float:
        """Seconds of the fastest run of some; one more warms up."""
        return min([self.seconds(run)[0] for _ in range(repeat + 1)][1:])

    def seconds(self, run: Callable[[], object]) -> tuple[float, float]:
        """(seconds, processor seconds) until the device has done a run."""
        wait_for(self.device)
        start, worked = time.perf_counter(), time.process_time()
        run()
        wait_for(self.device)
        return time.perf_counter() - start, time.process_time() - worked

    def now(self) -> float:
        """Seconds of a clock, when the device has done all that it was told."""
        wait_for(self.device)
        return time.perf_counter()

    def forget_peak(self) -> None:
        """Count the peak anew, where a device does; the CPU's is the process's."""
        empty_cache(self.device)
        forget_peak(self.device)

    def peak(self) -> float:
        """GiB that were held at most: on a device by its own counter (NaN where it has none), else by the process."""
        if self.device.type == "cpu":
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        counted = peak_memory(self.device)
        return float("nan") if counted is None else counted / GIB


#: Where a bench runs when nothing else is said.
CPU = Machine(torch.device("cpu"), torch.float32)


def of(options: argparse.Namespace, needs: Needs) -> Machine:
    """The machine that ``--device`` and ``--dtype`` name.

    Where it is not there, it is said what it would need, and the program ends with code 2.
    """
    dtype = getattr(torch, options.dtype)
    try:
        device = find_device(options.device)
        check_dtype(device, dtype)
    except ValueError as error:
        weights, beside = needs(dtype)
        print(
            f"--device {options.device} --dtype {options.dtype} {error}; by shapes it needs {weights / MIB:.0f} MiB "
            f"for the weights and {beside / MIB:.0f} MiB beside them for a plain run.",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    return Machine(device, dtype)


def unet_needs(options: argparse.Namespace) -> Needs:
    """Of a guided step of Stable Diffusion 1.x's UNet, or the toy's, at ``--size``."""

    def needs(dtype: torch.dtype) -> tuple[int, int]:
        from .memory import plain_bytes

        return plain_bytes("toy" if options.tiny else "sd15", options.size, 1, dtype)

    return needs


def placed(module: torch.nn.Module, machine: Machine, dtype: torch.dtype | None = None) -> torch.nn.Module:
    """A network on a machine, in its dtype or another."""
    return torch.nn.Module.to(module, machine.device, dtype or machine.dtype)
