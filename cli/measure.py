"""The papers' tables: how good colored pictures are."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import options as common
from . import pairs
from .terminal import say

NAME = "measure"
HELP = "measure colored pictures as papers do"
DESCRIPTION = (
    "Measures colored pictures against references, the truth or the gray inputs: FID, SI-FID, HIS, LPIPS, PSNR, SSIM, "
    "colorfulness, CDC and more, each as its paper defines it and as the published program computes it."
)

#: What pictures are measured against: option, what it is called in the pipeline.
_AGAINST = {"reference": "reference", "truth": "truth", "input": "gray"}


def add_options(command: argparse.ArgumentParser) -> None:
    from ..pipelines.measure import MeasureSettings

    group = command.add_argument_group("input and output")
    group.add_argument(
        "outputs", nargs="+", type=common.path, metavar="OUTPUTS", help="folder of colored pictures, or pictures"
    )
    for option, help in (
        ("reference", "whose colors they should have: folder with a picture of the same name for each, or one picture "
         "for all; any size (default: measures that need it are left out)"),
        ("truth", "what they should be, the same way, of the outputs' size (default: likewise)"),
        ("input", "what was colored, the same way, of the outputs' size (default: the truth)"),
    ):  # fmt: skip
        group.add_argument(f"--{option}", type=common.path, metavar="PLACE", help=help)
    group.add_argument(
        "--weights",
        type=common.path,
        metavar="FOLDER",
        help="folder with the files of Inception and of LPIPS; what it lacks is named, nothing is fetched (default: "
        "measures that need them are left out)",
    )
    group.add_argument(
        "--json",
        type=common.path,
        metavar="FILE",
        help="write all numbers, each picture's too, to this .json file; older numbers are replaced, nothing else "
        "(default: the table alone)",
    )
    group.add_argument(
        "--plot", type=common.path, metavar="FILE", help="write table and plots to this .png or .jpg (default: none)"
    )
    common.add_device(group)
    common.add_settings(command, MeasureSettings)


def run(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ..files.output import check_destination
    from ..files.pictures import load_picture
    from ..files.saving import save_picture
    from ..networks.measure.files import load_networks
    from ..pipelines.measure import MeasureSettings, Measuring, Pair, check_frames
    from ..pipelines.measure_report import SUFFIX, check_place, picture, save, table

    settings = MeasureSettings.resolve(**common.chosen(options, MeasureSettings))
    device = common.device(options)
    outputs = pairs.pictures_of("OUTPUTS", options.outputs)
    pairs.check_stems(outputs)
    against = {
        name: pairs.paired(f"--{option}", outputs, [place])
        for option, name in _AGAINST.items()
        if (place := getattr(options, option)) is not None
    }
    check_frames(settings, len(outputs), "--frames")
    _check(outputs, against)
    for place, suffixes in ((options.json, (SUFFIX,)), (options.plot, (".png", ".jpg"))):
        if place is not None:
            check_destination(place, suffixes)
    if options.json is not None:
        check_place(options.json)
    measuring = Measuring(settings, load_networks(options.weights, device=device), device)
    for path in tqdm(outputs, unit="picture"):
        beside = {name: load_picture(found[path]) for name, found in against.items()}
        measuring.add(Pair(path.name, load_picture(path), **beside))
    measured = measuring.result()
    say_table(table(measured))
    if options.json is not None:
        save(measured, options.json)
        say(options.json)
    if options.plot is not None:
        save_picture(picture(measured), options.plot)
        say(options.plot)
    return 0


def say_table(text: str) -> None:
    """A table on standard output, line by line."""
    for line in text.splitlines():
        say(line)


def _check(outputs: list[Path], against: dict[str, dict[Path, Path]]) -> None:
    """Whether sizes fit, before any work.

    :raises ValueError: a truth or an input of another size.
    """
    from ..files.pictures import picture_size

    for path in outputs:
        height, width = picture_size(path)
        for option, name in _AGAINST.items():
            if name not in against:
                continue
            other = against[name][path]
            found = picture_size(other)
            if name != "reference" and found != (height, width):
                raise ValueError(
                    f"--{option} {other}: found {found[1]} x {found[0]} pixels, expected {width} x {height}, as {path} "
                    "has; scale one of them, all by the same program."
                )
