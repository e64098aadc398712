"""Color with no reference, by DDColor."""

from __future__ import annotations

import argparse

from . import options as common

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
    import torch
    from tqdm import tqdm

    from ..demo import ddcolor_path
    from ..files.pictures import load_picture, save_picture
    from ..networks.ddcolor.load import load_ddcolor
    from ..pipelines.ddcolor import AutoColorSettings, auto_color

    outputs = common.output_paths(options.inputs, options.output)
    chosen = common.chosen(options, AutoColorSettings)
    AutoColorSettings.resolve(**chosen)  # what is out of range is refused before anything is read
    pictures = [load_picture(path) for path in options.inputs]
    sizes = {tuple(picture.shape[1:3]) for picture in pictures}
    if chosen.get("steady") and len(sizes) > 1:
        raise ValueError(
            f"--steady wants the frames of one video, but the inputs have {len(sizes)} sizes; leave it out."
        )
    network = load_ddcolor(options.model or ddcolor_path(), **common.placement(options))
    settings = AutoColorSettings.resolve(network.recommended, **chosen)
    batches = [torch.cat(pictures)] if settings.steady else pictures
    with tqdm(total=len(pictures), unit="picture") as bar:
        colored = []
        for batch in batches:
            start = bar.n
            colored += auto_color(
                network, batch, settings, on_frames=lambda n, start=start: bar.update(start + n - bar.n)
            )
    for picture, output in zip(colored, outputs, strict=True):
        output.parent.mkdir(parents=True, exist_ok=True)
        save_picture(picture[None], output)
        print(output)
    return 0
