"""Whether everything is as it should be: the machine, the pack's own files, and weights of the user's."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import names
from . import options as common
from .terminal import note, say

if TYPE_CHECKING:
    from ..pipelines.doctor.checks import Check, DoctorSettings

NAME = "doctor"
HELP = "look whether everything is as it should be"
DESCRIPTION = (
    "Looks at this machine, runs every system on the small files that come with the pack, and measures checkpoints of "
    "yours that are named, each number beside what is expected. Attach the JSON to a report: it names no folders."
)


def add_options(command: argparse.ArgumentParser) -> None:
    from ..pipelines.doctor.checks import DoctorSettings

    common.add_checkpoint(command, "of yours to look at (default: none)")
    group = command.add_argument_group("other weights")
    group.add_argument("--ddcolor", type=common.path, metavar="FILE", help="DDColor's file (default: none)")
    group.add_argument("--lcad", type=common.path, metavar="FILE", help="L-CAD's checkpoint (default: none)")
    group.add_argument(
        "--deadiff",
        type=common.path,
        metavar="FILE",
        help="DEADiff's checkpoint, or an adapter made from it (default: none)",
    )
    group.add_argument(
        "--tokenizer",
        type=common.place,
        metavar="PLACE",
        help="for --lcad: folder with CLIP's tokenizer, or the name openai/clip-vit-large-patch14 to fetch it from the "
        "hub (default: what the hub's cache has of it)",
    )
    out = command.add_argument_group("output")
    out.add_argument(
        "--json",
        type=common.path,
        metavar="FILE",
        help="write all of it to this .json file, for a report; an older report is replaced, nothing else (default: "
        "the table alone)",
    )
    out.add_argument(
        "--sheet",
        type=common.path,
        metavar="FILE",
        help="write what can be judged by eye to this .png or .jpg file (default: it is not kept)",
    )
    out.add_argument("--record", type=common.path, metavar="FILE", help=argparse.SUPPRESS)  # for work on the pack
    common.add_settings(command, DoctorSettings)


def run(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ..color.batches import freed
    from ..files.output import check_destination
    from ..pipelines.doctor.checks import DoctorSettings, Meter, examine
    from ..pipelines.doctor.machine import environment
    from ..pipelines.doctor.report import SUFFIX, Report, check_place, save

    settings = DoctorSettings.resolve(**common.chosen(options, DoctorSettings))
    placed = common.checkpoint(options)
    device = placed["device"]
    _check_files(options)
    for place, suffixes in ((options.json, (SUFFIX,)), (options.sheet, (".png", ".jpg")), (options.record, (SUFFIX,))):
        if place is not None:
            check_destination(place, suffixes)
    if options.json is not None:
        check_place(options.json)
    checks, found = _checks(options, settings)
    facts = {**environment(device), "host": "command line", "dtype": options.dtype}
    meter, results = Meter(device), []
    with tqdm(total=len(checks), unit="check") as bar:

        def begin(check: Check) -> None:
            bar.set_description(f"{check.group}: {check.name}")

        for result in examine(checks, meter, free=lambda e: freed(e, device), on_check=begin, paths=_paths(options)):
            results.append(result)
            bar.update()
    report = Report(facts, results, settings.quick, meter.counts)
    say(report.table())
    if options.json is not None:
        save(report, options.json)
        say(options.json)
    if options.sheet is not None:
        from ..files.saving import save_picture

        save_picture(report.sheet(), options.sheet)
        say(options.sheet)
    if options.record is not None:
        from ..pipelines.doctor.expected import write

        write(options.record, found, {name: facts[name] for name in ("torch", "device", "dtype")})
        note(f"{len(found)} systems recorded.")
    if report.failed:
        raise ValueError(f"{len(report.failed)} of {len(checks)} checks failed: {', '.join(report.failed)}.")
    return 0


def _check_files(options: argparse.Namespace) -> None:
    """Whether there is what is named: a slip of the pen is said at once."""
    for option in ("model", "vae", "ddcolor", "lcad", "deadiff"):
        if (file := getattr(options, option)) is not None:
            names.check_read(f"--{option}", file, folders=option in ("model", "vae"))


def _checks(options: argparse.Namespace, settings: DoctorSettings) -> tuple[list[Check], dict[str, list[float]]]:
    """All that is to be looked at, and where the numbers of the pack's own files are put."""
    from .. import demo
    from ..hosts.diffusers import doctor as host
    from ..pipelines.doctor import machine, networks
    from ..pipelines.doctor.checkpoint import Examination
    from ..pipelines.doctor.embedded import Embedded, Pictures
    from ..pipelines.doctor.expected import read

    placed = common.checkpoint(options)
    device, dtype = placed["device"], placed["dtype"]
    pictures, found = Pictures(demo.pictures_path()), {}
    made = machine.checks(device, host.attend, host.ATTENTION)
    if settings.embedded_files:
        recorded = {} if options.record is not None else read(demo.recorded_path())
        made += Embedded(pictures, host.embedded_files(device, dtype), recorded, found).checks()
    if options.model is not None:
        more = {"prediction": placed["prediction"], "vae": placed["vae"]}
        checkpoint = host.checkpoint_of(options.model, device, dtype, **more)
        made += Examination(pictures, checkpoint, settings.quick).checks()
    if options.ddcolor is not None:
        made += networks.ddcolor_checks(pictures, host.ddcolor_of(options.ddcolor, device, dtype))
    if options.lcad is not None:
        lcad = host.lcad_of(options.lcad, device, dtype, options.tokenizer)
        made += networks.lcad_checks(pictures, lcad, settings.quick)
    if options.deadiff is not None:
        made += networks.deadiff_checks(pictures, host.deadiff_of(options.deadiff, device, dtype))
    return made, found


def _paths(options: argparse.Namespace) -> Sequence[Path]:
    named = (options.model, options.vae, options.ddcolor, options.lcad, options.deadiff, options.tokenizer)
    return [Path(place) for place in named if place is not None]
