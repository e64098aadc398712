"""Command-line options made from settings, and those that every command has."""

from __future__ import annotations

import argparse
from collections.abc import Container, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..settings import Settings, entries

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "float16", "bfloat16")


def add_settings(
    command: argparse.ArgumentParser,
    settings: type[Settings],
    skip: Container[str] = (),
    prefix: str = "",
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """An option for every setting of a class but some; left out, an option chooses nothing.

    :param prefix: of the options' names, where a command has settings of two classes.
    :param defaults: what the command takes where it is not the settings' default.
    """
    for name, entry in entries(settings).items():
        if name in skip:
            continue
        flag, about = "--" + (prefix + name).replace("_", "-"), entry.about
        left_out = "the model's recommendation, else " if about.auto else ""
        default = (defaults or {}).get(name, entry.default)
        text = f"{about.help} (default: {left_out}{_shown(default)})".replace("%", "%%")
        if entry.kind is bool:
            command.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        elif entry.options:
            command.add_argument(flag, choices=entry.options, help=text)
        else:
            command.add_argument(flag, type=entry.kind, help=text)


def chosen(options: argparse.Namespace, settings: type[Settings], prefix: str = "") -> dict[str, Any]:
    """The settings that the command line names."""
    values = {name: getattr(options, prefix + name, None) for name in entries(settings)}
    return {name: value for name, value in values.items() if value is not None}


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    return f"{default:g}" if isinstance(default, (int, float)) else str(default) or "empty"


def add_inputs(command: argparse.ArgumentParser, help: str) -> None:
    """The pictures to work on, and where results go."""
    command.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help=help)
    command.add_argument("--output", type=Path, help="file for one input, folder for several (default: beside each)")


def add_model(command: argparse.ArgumentParser, help: str, *, required: bool = False) -> None:
    """The model file, and where and how precisely it runs.

    :param required: for a command without an embedded file to fall back on.
    """
    command.add_argument("--model", type=Path, required=required, help=help)
    command.add_argument("--device", default="cpu", help="cpu, cuda, mps ... (default: cpu)")
    command.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="of the model's weights (default: float32)")


def placement(options: argparse.Namespace) -> dict[str, Any]:
    """``device`` and ``dtype`` for a loader.

    :raises ValueError: a device that is not there.
    """
    import torch

    return {"device": _device(options.device), "dtype": getattr(torch, options.dtype)}


def _device(name: str) -> torch.device:
    """A torch device that is really there."""
    import torch

    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {name} can't be used here ({reason}); use --device cpu.") from None
    return device


def output_paths(inputs: list[Path], output: Path | None, what: str = "colored") -> list[Path]:
    """Where each result goes; several inputs need a folder.

    :raises ValueError: one file for several inputs, or results of one name in one folder.
    """
    names = [f"{path.stem}_{what}.png" for path in inputs]
    if output is None:
        return [path.with_name(name) for path, name in zip(inputs, names, strict=True)]
    if len(inputs) == 1 and output.suffix:
        return [output]
    if output.suffix:
        raise ValueError(f"There are {len(inputs)} inputs, but --output names one file, {output}; name a folder.")
    if len(set(names)) < len(names):
        raise ValueError("Two inputs have the same file name; put their results into different folders.")
    return [output / name for name in names]
