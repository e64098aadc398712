"""Inversions from files: where ComfyUI keeps what nodes give, and the start of the way back as a LATENT."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ...diffusion.inversion import Inversion
from ...files.inversions import Inversions
from .fits import check_inversion
from .host import as_latent
from .memory import resting_place

#: What stands where a file has nothing, or nothing was connected; ComfyUI tells it where something waits for one.
NO_GRAY = ExecutionBlocker(
    "Load Inversion: the file holds no gray_inversion; connect one to Save Inversion, and save both in one file."
)
NO_MODEL = ExecutionBlocker("Load Inversion: noised is in the MODEL's own scale; connect the MODEL that inverted.")


def only_size(inversions: Inversions, node: str, name: str) -> tuple[Inversion, Inversion | None]:
    """The one inversion of a file, and the same without color if the file has it, where nodes' values are kept.

    :raises ValueError: pictures of several sizes, which no socket carries.
    """
    if len(inversions.color) > 1:
        raise ValueError(
            f"{node}: {name}: found references of {len(inversions.color)} sizes, as the command line saves them, "
            "expected one; name the file there, or save references of each size in a file of their own."
        )
    gray = inversions.gray[0] if inversions.gray else None
    return _placed(inversions.color[0]), None if gray is None else _placed(gray)


def _placed(inversion: Inversion) -> Inversion:
    place = resting_place()
    return replace(inversion, trajectory=inversion.trajectory.to(place), bank=inversion.bank.moved(place))


def noised(inversion: Inversion, model: Any) -> dict[str, Tensor]:
    """The start of the way back, as DDIM Inversion gives it: a LATENT."""
    return {"samples": as_latent(model, inversion.given())}


def check_model(inversions: Inversions, model: Any, node: str, name: str) -> None:
    """Whether a file's inversions were made with a MODEL.

    :raises ValueError: they were made with another one.
    """
    for inversion in inversions.all:
        check_inversion(inversion, model, node, name)


def way_back(inversion: Inversion) -> Tensor:
    """(T+1,) sigmas of the way back."""
    return torch.tensor(inversion.plan.sigmas)
