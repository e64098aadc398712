"""DEADiff's own weights as a small file."""

from __future__ import annotations

import argparse

from . import options as common
from .names import check_collisions, check_read
from .terminal import say

NAME = "extract-deadiff"
HELP = "write what is new in DEADiff's checkpoint as a small file"
DESCRIPTION = (
    "DEADiff's checkpoint (Qi et al. 2024) holds a whole Stable Diffusion 1.5 besides its own encoder and projections. "
    "This writes only the latter, which is all that Load DEADiff reads."
)


def add_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("input and output")
    group.add_argument("checkpoint", type=common.path, help="DEADiff's checkpoint, .ckpt or .safetensors")
    group.add_argument(
        "adapter",
        type=common.path,
        help="the .safetensors file to write; an older adapter is replaced, a file of another kind never",
    )
    group.add_argument(
        "--dtype", choices=common.DTYPES, default="float16", help="float16 halves the file (default: float16)"
    )


def run(options: argparse.Namespace) -> int:
    import torch

    from ..networks.deadiff.load import extract

    check_read("the checkpoint", options.checkpoint)
    check_collisions([], [("the checkpoint", options.checkpoint)], [("the adapter", options.adapter)])
    done = extract(options.checkpoint, options.adapter, getattr(torch, options.dtype))
    trunks = "both branches' image trunks are the same and kept once" if done["shared_trunk"] else "two image trunks"
    say(f"{options.adapter}: {done['tensors']} tensors, {done['bytes'] / 1e6:.1f} MB ({trunks})")
    return 0
