"""Color by a reference picture."""

from __future__ import annotations

import argparse

from . import options as common
from .batch import Job, plan

NAME = "colorize"
HELP = "color gray pictures by a color reference"
DESCRIPTION = (
    "Colors gray pictures by a color reference (Kosugi 2025). Options left out are the model's recommendation, else "
    "the paper's."
)

#: One picture in a model call: each is written as soon as it is done, and does not depend on what it is named with.
DEFAULTS = {"batch": 1}


def add_options(command: argparse.ArgumentParser) -> None:
    from ..pipelines.exemplar_settings import ColorizeSettings

    group = common.add_inputs(command, "gray picture(s)")
    group.add_argument(
        "--reference", required=True, type=common.path, help="color picture with the same kinds of things (required)"
    )
    group.add_argument("--no-sheet", action="store_true", help="no contact sheet (default: one beside each result)")
    common.add_checkpoint(command)
    # a fallback has no option: it would need a picture for each input
    common.add_settings(command, ColorizeSettings, skip=("fallback_below",), defaults=DEFAULTS)


def run(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ..demo import model_path
    from ..files.pictures import load_picture
    from ..hosts.diffusers.checkpoint import load_standalone
    from ..hosts.diffusers.host import DiffusersHost
    from ..pipelines.exemplar_batches import calls_in_batches, colorize_in_batches
    from ..pipelines.exemplar_settings import ColorizeSettings
    from ..pipelines.sheet import contact_sheet

    chosen = {**DEFAULTS, **common.chosen(options, ColorizeSettings)}
    ColorizeSettings.resolve(**chosen)  # what is out of range is refused before anything is read
    placed, path = common.checkpoint(options), options.model or model_path()
    batch = plan(
        options,
        sheets=not options.no_sheet,
        pictures={"--reference": options.reference},
        files={"--model": path},
        folders=["--model"],
    )
    reference = load_picture(options.reference)
    model = load_standalone(path, **placed)
    settings = ColorizeSettings.resolve(model.recommended.get("exemplar", {}), **chosen)
    pair = None
    for group in batch.groups():  # pictures of one size share model calls
        with batch.working(), tqdm(desc=_listed(group), unit="call") as bar:
            host = DiffusersHost(model, on_step=lambda _, bar=bar: bar.update())
            for start in range(0, len(group), settings.batch):
                jobs = group[start : start + settings.batch]
                images, done = batch.read(*jobs), 0
                if not start:
                    everyone = images[:1].expand(len(group), -1, -1, -1)  # no copies: sizes are all that counts
                    bar.total = calls_in_batches(host, everyone, reference, settings, pair)
                for result in colorize_in_batches(host, images, reference, settings, prepared=pair):
                    pair = result.reference
                    for index, job in enumerate(jobs[done : done + len(result.images)]):
                        sheet = None
                        if job.sheet is not None:
                            sheet = contact_sheet(images[done + index][None], reference, result.take(index))
                        batch.write(job, result.images[index][None], sheet)
                    done += len(result.images)
                    del result  # its features take more than all pictures
                del images
    return 0


def _listed(jobs: list[Job]) -> str:
    """Names for a progress bar."""
    first, more = jobs[0].source.name, len(jobs) - 1
    return f"{first} and {more} more" if more else first
