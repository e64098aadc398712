"""Recorded numbers of the pack's own files: what a picture comes to, and how far from it a run may be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...color import rgb_to_lab
from ...files.output import whole

_FORMAT = 1

#: Rows and columns of the means that stand for a picture.
GRID = (6, 8)

#: How far a run's pictures may be from those that were recorded: (good, look) by the precision of the UNet, in Lab
#: units, mean over the grid. The recorded run was in float32 on a CPU. There float16 came within 0.014 and bfloat16
#: within 0.15 of it; the bounds are some four times that. TF32, which GPUs may take for float32, rounds as float16.
PICTURES: Mapping[torch.dtype, tuple[float, float]] = {
    torch.float32: (0.06, 0.6),
    torch.float16: (0.06, 0.6),
    torch.bfloat16: (0.6, 3.0),
}

#: The same of tokens, relative to their length. The encoder runs in float32; TF32 rounds at 1e-3.
TOKENS = (5e-3, 5e-2)

#: Systems whose numbers are no picture's.
RELATIVE = ("DEADiff",)
#: Systems that run in float32 whatever the UNet runs in.
SINGLE = ("DDColor", "DEADiff")


def bounds(system: str, dtype: torch.dtype) -> tuple[float, float]:
    """(good, look) of a system where the UNet runs in a precision."""
    if system in RELATIVE:
        return TOKENS
    return PICTURES.get(torch.float32 if system in SINGLE else dtype, PICTURES[torch.bfloat16])


def of_picture(picture: Tensor) -> list[float]:
    """(1, H, W, 3) in 0..1 -> mean L, a, b of a coarse grid, row by row."""
    lab = rgb_to_lab(picture.cpu().float()).movedim(-1, 1)
    return _rounded(F.adaptive_avg_pool2d(lab, GRID)[0].movedim(0, -1))


def of_tokens(tokens: Mapping[str, Tensor]) -> list[float]:
    """Kind -> (pictures, tokens, hidden) -> the first numbers of the mean token of each kind, by the kinds' names."""
    return _rounded(torch.cat([tokens[kind].cpu().float().mean((0, 1))[:32] for kind in sorted(tokens)]))


def _rounded(values: Tensor) -> list[float]:
    return [round(float(value), 5) for value in values.flatten()]


def distance(system: str, found: list[float], expected: list[float]) -> float:
    """How far numbers are from those that were recorded; infinite where there are not as many."""
    if len(found) != len(expected):
        return float("inf")
    one, other = torch.tensor(found), torch.tensor(expected)
    if system in RELATIVE:
        return float((one - other).norm() / other.norm())
    return float((one - other).unflatten(0, (-1, 3)).norm(dim=-1).mean())


def read(path: Path) -> dict[str, list[float]]:
    """System -> recorded numbers.

    :raises OSError: there is no such file.
    :raises ValueError: it is none of ours.
    """
    content = json.loads(path.read_text("utf-8"))
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f"{path.name} is no file of recorded numbers; reinstall the pack to restore it.")
    return {name: list(map(float, numbers)) for name, numbers in content["values"].items()}


def write(path: Path, values: Mapping[str, list[float]], about: Mapping[str, Any]) -> None:
    """Record numbers.

    :param about: what they were made with.
    :raises OSError: it cannot be written.
    """
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(list(numbers))}" for name, numbers in values.items())
    text = f'{{\n "format": {_FORMAT},\n "about": {json.dumps(dict(about))},\n "values": {{\n{lines}\n }}\n}}\n'
    with whole(path) as beside:
        beside.write_text(text, "utf-8")
