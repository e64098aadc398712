"""Color with no reference, by DDColor."""

from __future__ import annotations

import argparse

from . import options as common
from .batch import plan

NAME = "auto"
HELP = "color gray pictures with no reference"
DESCRIPTION = "Colors gray pictures with no reference, by a DDColor network (Kang et al. 2023)."


def add_options(command: argparse.ArgumentParser) -> None:
    from ..pipelines.ddcolor import AutoColorSettings

    common.add_inputs(command, "gray picture(s); with --steady the frames of one video, in order")
    common.add_model(
        command,
        "DDColor file: ddcolor_modelscope, paper, artistic or paper_tiny, as .pth, .pt, .bin or .safetensors (default: "
        "the embedded one, made for drawings)",
    )
    common.add_settings(command, AutoColorSettings)


def run(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ..demo import ddcolor_path
    from ..networks.ddcolor.load import load_ddcolor
    from ..pipelines.ddcolor import AutoColorSettings, auto_color, auto_color_in_turn
    from ..pipelines.recommended import SYSTEMS

    chosen = common.chosen(options, AutoColorSettings)
    steady = AutoColorSettings.resolve(**chosen).steady  # what is out of range is refused before anything is read
    placed, path = common.placement(options), options.model or ddcolor_path()
    batch = plan(options, files={"--model": path}, one_size="--steady" if steady else "")
    network = load_ddcolor(path, systems=SYSTEMS, **placed)
    settings = AutoColorSettings.resolve(network.recommended, **chosen)
    jobs, count = batch.jobs, len(batch.jobs)
    pictures = map(batch.read, jobs)
    with batch.working(), tqdm(total=count, unit="picture") as bar:
        if settings.steady:
            colored = auto_color_in_turn(
                network, pictures, settings, count=count, on_frames=lambda n: bar.update(n - bar.n)
            )
        else:
            colored = (auto_color(network, picture, settings, on_frames=bar.update) for picture in pictures)
        for job, picture in zip(jobs, colored, strict=True):
            batch.write(job, picture)
    return 0
