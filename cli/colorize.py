"""Color by a reference picture."""

from __future__ import annotations

import argparse
from itertools import groupby
from pathlib import Path

from . import options as common

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

    common.add_inputs(command, "gray picture(s)")
    command.add_argument("--reference", required=True, type=Path, help="color picture with the same kinds of things")
    common.add_model(command, "SD 1.x, 2.x or SDXL checkpoint file or diffusers folder (default: the embedded model)")
    # a fallback has no option: it would need a picture for each input
    common.add_settings(command, ColorizeSettings, skip=("fallback_below",), defaults=DEFAULTS)
    command.add_argument("--no-sheet", action="store_true", help="no contact sheet")


def run(options: argparse.Namespace) -> int:
    import torch
    from tqdm import tqdm

    from ..demo import model_path
    from ..files.pictures import load_picture, save_picture
    from ..hosts.diffusers.checkpoint import load_standalone
    from ..hosts.diffusers.host import DiffusersHost
    from ..pipelines.exemplar_batches import calls_in_batches, colorize_in_batches
    from ..pipelines.exemplar_settings import ColorizeSettings
    from ..pipelines.sheet import contact_sheet

    outputs = common.output_paths(options.inputs, options.output)
    chosen = {**DEFAULTS, **common.chosen(options, ColorizeSettings)}
    ColorizeSettings.resolve(**chosen)  # what is out of range is refused before anything is read
    reference = load_picture(options.reference)
    pictures = [load_picture(path) for path in options.inputs]
    model = load_standalone(options.model or model_path(), **common.placement(options))
    settings = ColorizeSettings.resolve(model.recommended.get("exemplar", {}), **chosen)
    jobs = zip(pictures, options.inputs, outputs, strict=True)
    pair = None
    for _, group in groupby(jobs, key=lambda job: job[0].shape):  # pictures of one size share model calls
        images, paths, files = zip(*group, strict=True)
        batch, done = torch.cat(images), 0
        with tqdm(desc=", ".join(path.name for path in paths), unit="call") as bar:
            host = DiffusersHost(model, on_step=lambda _, bar=bar: bar.update())
            bar.total = calls_in_batches(host, batch, reference, settings, pair)
            for result in colorize_in_batches(host, batch, reference, settings, prepared=pair):
                pair = result.reference
                for index in range(len(result.images)):
                    output = files[done]
                    output.parent.mkdir(parents=True, exist_ok=True)
                    save_picture(result.images[index][None], output)
                    print(output)
                    if not options.no_sheet:
                        sheet = output.with_name(f"{output.stem}_sheet.png")
                        save_picture(contact_sheet(images[done], reference, result.take(index)), sheet)
                        print(sheet)
                    done += 1
    return 0
