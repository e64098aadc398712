"""Command-line options made from settings, and those that every command has."""

from __future__ import annotations

import argparse
from collections.abc import Container, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ..settings import Settings, entries

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "float16", "bfloat16")
#: What a group of settings is called in help, where its name in the code says less.
_WORDS = {"asking": "color memory"}
_METAVARS = {int: "N", float: "X", str: "TEXT"}


def path(text: str) -> Path:
    """A path that an option names.

    :raises argparse.ArgumentTypeError: no file can have the name.
    """
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a file or folder")
    return Path(text)


def place(text: str) -> str:
    """The same as a text, for where a slash at its end counts."""
    path(text)
    return text


def add_settings(
    command: argparse.ArgumentParser,
    settings: type[Settings],
    skip: Container[str] = (),
    prefix: str = "",
    defaults: Mapping[str, Any] | None = None,
    title: str = "settings",
    about: str | None = None,
    advanced: bool | None = None,
) -> None:
    """An option for every setting of a class but some; left out, an option chooses nothing.

    They stand in groups: those that most users look at, by their class, then the advanced ones.

    :param prefix: of the options' names, where a command has settings of two classes.
    :param defaults: what the command takes where it is not the settings' default.
    :param title: of the group of the class's own.
    :param about: a sentence below the titles.
    :param advanced: whether those that few users touch are meant, or the others; None for all.
    """
    groups: dict[str, argparse._ArgumentGroup] = {}
    known = [(name, entry) for name, entry in entries(settings).items() if name not in skip]
    known = [each for each in known if advanced in (None, each[1].about.advanced)]
    for name, entry in sorted(known, key=lambda each: each[1].about.advanced):  # otherwise in their order
        path = [_WORDS.get(each, each) for each in entry.path]
        called = ", ".join(["advanced " * entry.about.advanced + title, *path])
        if called not in groups:
            groups[called] = command.add_argument_group(called, about)
        known_of = entry.about
        left_out = "the model's recommendation, else " if known_of.auto else ""
        default = (defaults or {}).get(name, entry.default)
        text = f"{known_of.help} (default: {left_out}{_shown(default)})".replace("%", "%%")
        if entry.kind is bool:
            kind: dict[str, Any] = {"action": argparse.BooleanOptionalAction, "default": None}
        else:
            kind = (
                {"choices": entry.options} if entry.options else {"type": entry.kind, "metavar": _METAVARS[entry.kind]}
            )
        groups[called].add_argument(flag_of(prefix + name), help=text, **kind)
        if known_of.formerly:  # no line in the help, but understood
            former = flag_of(prefix + known_of.formerly)
            groups[called].add_argument(former, dest=prefix + name, help=argparse.SUPPRESS, **kind)


def chosen(options: argparse.Namespace, settings: type[Settings], prefix: str = "") -> dict[str, Any]:
    """The settings that the command line names.

    :raises ValueError: a value that a setting cannot have, under the option's name.
    """
    values = {}
    for name, entry in entries(settings).items():
        value = getattr(options, prefix + name, None)
        if not entry.left_alone(value):
            values[name] = entry.check(value, flag_of(prefix + name))
    return values


def flag_of(name: str) -> str:
    """The option of a setting."""
    return "--" + name.replace("_", "-")


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    return f"{default:g}" if isinstance(default, (int, float)) else str(default) or "empty"


def add_inputs(command: argparse.ArgumentParser, help: str) -> argparse._ArgumentGroup:
    """The pictures to work on, where results go, and how precise they are.

    :returns: the group of these options, for a command's own.
    """
    group = command.add_argument_group("input and output")
    group.add_argument("inputs", nargs="+", type=path, metavar="INPUT", help=help)
    group.add_argument(
        "--output",
        type=place,
        metavar="PLACE",
        help="file for one input, folder for several or with a slash at its end. Older results are replaced, inputs "
        "never (default: beside each input)",
    )
    group.add_argument(
        "--bits",
        type=int,
        choices=(8, 16),
        default=8,
        help="of a sample in the results; 16 keeps the fine steps of a scan, as .png or .tif, in twice the size "
        "(default: 8)",
    )
    return group


def add_model(command: argparse.ArgumentParser, help: str, *, required: bool = False) -> argparse._ArgumentGroup:
    """The model file, and where and how precisely it runs.

    :param required: for a command without an embedded file to fall back on.
    :returns: the group of these options, for a command's own.
    """
    group = command.add_argument_group("model")
    group.add_argument(
        "--model", type=path, metavar="PLACE", required=required, help=f"{help} (required)" if required else help
    )
    add_device(group)
    group.add_argument(
        "--dtype",
        choices=DTYPES,
        default=DTYPES[0],
        help="of the model's weights; float16 and bfloat16 take half the memory and are faster on most GPUs (default: "
        "float32)",
    )
    return group


def add_device(group: argparse._ArgumentGroup) -> None:
    """Where the work is done, see :func:`device`."""
    group.add_argument(
        "--device",
        default="cpu",
        metavar="NAME",
        help="where it runs: cpu, cuda (NVIDIA, AMD), cuda:1, xpu (Intel), mps (Apple) ..., or auto for the first "
        "accelerator that torch finds (default: cpu)",
    )


def add_checkpoint(command: argparse.ArgumentParser, about: str = "(default: the embedded model)") -> None:
    """The model of a command that works with any Stable Diffusion, and what it predicts.

    :param about: what it is for, and what is taken without it.
    """
    from ..hosts.diffusers.prediction import Prediction

    group = add_model(command, f"SD 1.x, 2.x or SDXL checkpoint file or diffusers folder {about}")
    group.add_argument(
        "--prediction",
        choices=get_args(Prediction),
        default="auto",
        help="what the model predicts: auto is what its file says, v is for models of v-prediction whose file does not "
        "say so, as with SD 1.x. The wrong one gives noise (default: auto)",
    )
    group.add_argument(
        "--vae",
        type=path,
        metavar="PLACE",
        help="autoencoder in the place of the model's own, made for the same latents: a folder or file of diffusers' "
        "AutoencoderTiny (TAESD), which is much smaller, or AutoencoderKL (default: the model's own)",
    )


def checkpoint(options: argparse.Namespace) -> dict[str, Any]:
    """``device``, ``dtype``, ``prediction`` and ``vae`` for a loader of checkpoints; as :func:`placement`."""
    return {**placement(options), "prediction": options.prediction, "vae": options.vae}


def placement(options: argparse.Namespace) -> dict[str, Any]:
    """``device`` and ``dtype`` for a loader. Asked for before any work, since a device may not be there.

    :raises ValueError: a device that is not there, or does not compute in the dtype.
    """
    import torch

    from ..color.devices import check_dtype

    dtype, where = getattr(torch, options.dtype), device(options)
    try:
        check_dtype(where, dtype)
    except ValueError as error:
        raise ValueError(f"--dtype {options.dtype} {error}; use another one.") from None
    return {"device": where, "dtype": dtype}


def device(options: argparse.Namespace) -> torch.device:
    """The device that ``--device`` names.

    :raises ValueError: it is not there.
    """
    from ..color.devices import find_device

    try:
        return find_device(options.device)
    except ValueError as error:
        raise ValueError(f"--device {options.device} {error}.") from None
