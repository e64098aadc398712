"""Colors of edited copies on the photographs' own pixels."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import options as common
from .batch import plan
from .looking import add_looking, look, networks, placement

if TYPE_CHECKING:
    from torch import Tensor

    from ..memory.entries import ColorMemory

log = logging.getLogger(__name__)

NAME = "recolor"
HELP = "bring the colors of edited copies back onto the photographs"
DESCRIPTION = (
    "Gives photographs the colors of copies that an edit model made of them: finds how each copy was zoomed, shifted "
    "and bent, and lays its colors on the photograph's own pixels. Lightness and size stay the photograph's. No model "
    "is needed; with one, places that the copy shows otherwise are colored by what they look like."
)

#: What options of asking a color memory begin with, and its settings that are none of this command's.
ASKING, NOT_ASKED = "memory_", ("saturation", "reach", "fallback_below", "batch")


def add_options(command: argparse.ArgumentParser) -> None:
    from ..pipelines.memory_settings import MemorySettings
    from ..pipelines.transfer import TransferSettings

    group = common.add_inputs(command, "original(s), whose pixels and lightness are kept")
    group.add_argument(
        "--from",
        dest="edited",
        nargs="+",
        action="extend",
        type=common.path,
        required=True,
        metavar="EDITED",
        help="edited copy in color, of any size: one for all originals, or one for each in their order. Named after "
        "the originals, since all that follow it are copies (required)",
    )
    group.add_argument("--no-sheet", action="store_true", help="no contact sheet (default: one beside each result)")
    group.add_argument(
        "--fallback",
        nargs="+",
        action="extend",
        type=common.path,
        metavar="PICTURE",
        default=[],
        help="original colored in another way, for places that the copy shows otherwise: one for all, or one for each "
        "(default: none, they take the colors around them)",
    )
    add_looking(
        group,
        "color memory that colorize --save-memory wrote, for the same places; may be given several times (default: "
        "none; a named model remembers the copy itself)",
    )
    common.add_checkpoint(
        command, "that tells which places look alike (default: none; with --memory the embedded model)"
    )
    for advanced in (False, True):
        each = {"advanced": advanced}
        common.add_settings(command, TransferSettings, **each)
        common.add_settings(command, MemorySettings, NOT_ASKED, ASKING, title="settings, memory", **each)


def run(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ..pipelines.sheet import transfer_sheet
    from ..pipelines.transfer import TransferSettings, transfer_colors

    settings = TransferSettings.resolve(**common.chosen(options, TransferSettings))
    chosen, asked = _asking(options)
    placed = placement(options, chosen, ASKING)
    edits, fallbacks = (_one_each(options, name) for name in ("--from", "--fallback"))
    batch = plan(
        options,
        "recolored",
        sheets=not options.no_sheet,
        pictures={**_named("--from", edits), **_named("--fallback", fallbacks)},
        files={**{f"--memory {file}": file for file in options.memory}, **(networks(options) if asked else {})},
        folders=["--model", "--encoder", "--vae"],
    )
    memory = _memory(options)
    network: dict[str, Any] = {}
    if asked:
        looking = look(options, placed, chosen, [] if memory is None else [memory])
        if memory is not None and memory.made is not None:
            memory.made.check(looking.made, "--memory")
        network = {"network": looking.network, "asking": looking.asking, "memory": memory}
    copies, others = _Kept(), _Kept()
    with batch.working(), tqdm(total=len(batch.jobs), unit="picture") as bar:
        for job, edit, other in zip(batch.jobs, edits, fallbacks or [None] * len(batch.jobs), strict=True):
            original, edited = batch.read(job), copies.read(edit)
            fallback = None if other is None else others.read(other)
            try:
                result = transfer_colors(original, edited, settings, fallback=fallback, **network)
            except ValueError as error:
                raise ValueError(_by_option(str(error), edit, other)) from error
            for note in result.notes:
                log.warning("%s: %s", job.source, note)
            sheet = None if job.sheet is None else transfer_sheet(original, edited, result)
            batch.write(job, result.images, sheet)
            bar.update()
    return 0


class _Kept:
    """The last picture that was read: one for all is read once, of many only one is held."""

    path: Path | None = None
    picture: Tensor

    def read(self, path: Path) -> Tensor:
        """(1, H, W, 3) in 0..1."""
        if path != self.path:
            from ..files.pictures import load_picture

            self.path = None  # reading may fail
            self.picture = load_picture(path)
            self.path = path
        return self.picture


def _asking(options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """How a memory is asked, and whether one is.

    :raises ValueError: it is said how, but none is.
    """
    from ..pipelines.memory_settings import MemorySettings

    chosen = common.chosen(options, MemorySettings, ASKING)
    MemorySettings.resolve(**chosen)  # what is out of range is refused before anything is read
    asked = bool(options.memory or options.model or options.encoder)
    if chosen and not asked:
        listed = ", ".join(common.flag_of(ASKING + name) for name in chosen)
        raise ValueError(f"{listed}: no color memory is asked without a model; name --model, --encoder or --memory.")
    return chosen, asked


def _one_each(options: argparse.Namespace, option: str) -> list[Path]:
    """The pictures of an option, one for each original; none where none is named.

    :raises ValueError: another number.
    """
    named: list[Path] = options.edited if option == "--from" else options.fallback
    originals = len(options.inputs)
    if len(named) not in (0, 1, originals):
        raise ValueError(
            f"{option} names {len(named)} pictures for {originals} original(s); name one for all, or one for each."
        )
    return named * originals if len(named) == 1 else named


def _named(option: str, paths: list[Path]) -> dict[str, Path | None]:
    """Pictures by what a message calls them."""
    several = len(set(paths)) > 1
    return {f"{option} {number}" if several else option: path for number, path in enumerate(paths, 1)}


def _memory(options: argparse.Namespace) -> ColorMemory | None:
    """All memories that are named as one."""
    from ..files.memories import load_memory
    from ..pipelines.memory import merged_memories

    named = {f"--memory {file}": load_memory(file) for file in options.memory}
    return merged_memories(named) if named else None


def _by_option(said: str, edit: Path, other: Path | None) -> str:
    """A message of the flow, with the options' names in the place of the flow's."""
    for name, called in (("edited", f"--from {edit}"), ("fallback", f"--fallback {other}")):
        if said.startswith(f"{name}:"):
            return called + said[len(name) :]
    return said
