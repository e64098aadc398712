"""Color by a reference picture."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import options as common

NAME = "colorize"
HELP = "color gray pictures by a color reference"
DESCRIPTION = (
    "Colors gray pictures by a color reference (Kosugi 2025). Options left out are the model's "
    "recommendation: the paper's for Stable Diffusion, its own for the embedded model."
)


def add_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="gray picture(s)")
    command.add_argument("--reference", required=True, type=Path, help="color picture with the same kinds of things")
    command.add_argument("--output", type=Path, help="file for one input, folder for several (default: beside each)")
    command.add_argument(
        "--model",
        type=Path,
        help="SD 1.x, 2.x or SDXL checkpoint file or diffusers folder (default: the embedded model)",
    )
    command.add_argument("--guidance", type=float, help="w: higher gives fuller colors, 1 is fastest")
    command.add_argument("--passes", type=int, help="N: how often to color, invert and color again")
    command.add_argument("--depth", type=int, help="T: steps of noise that coloring may use")
    command.add_argument("--steps", type=int, help="length of the whole schedule")
    command.add_argument(
        "--resolution",
        type=int,
        help="side of the square whose area the model works at; 0 keeps the pictures' own size",
    )
    for name in ("gamma-shallow", "gamma-deep", "beta-shallow", "beta-deep"):
        command.add_argument(f"--{name}", type=float, help="see the paper or the node's help page")
    command.add_argument("--match-latents", type=float, help="0..1, AdaIN of the starting noise")
    command.add_argument("--match-chroma", type=float, help="0..1, match the reference's color statistics")
    command.add_argument("--layers", default="color", help="where dual attention acts")
    command.add_argument("--convention", choices=("consistent", "official"), default="consistent")
    command.add_argument("--postprocess", choices=("exact", "official"), default="exact")
    command.add_argument("--device", default="cpu", help="cpu, cuda, mps ...")
    command.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")
    command.add_argument("--no-sheet", action="store_true", help="no contact sheet")


def run(options: argparse.Namespace) -> int:
    import torch
    from tqdm import tqdm

    from ..demo import model_path
    from ..files.pictures import load_picture, save_picture
    from ..hosts.diffusers.checkpoint import load_standalone
    from ..hosts.diffusers.host import DiffusersHost
    from ..pipelines.exemplar import colorize, one_working_size
    from ..pipelines.sheet import contact_sheet

    outputs = common.output_paths(options.inputs, options.output)
    reference = load_picture(options.reference)
    pictures = [load_picture(path) for path in options.inputs]
    device, dtype = common._device(options.device), getattr(torch, options.dtype)
    model = load_standalone(options.model or model_path(), dtype=dtype, device=device)
    settings = _settings(options, model.recommended)
    ready = None
    for index, (image, output) in enumerate(zip(pictures, outputs, strict=True)):
        with tqdm(desc=options.inputs[index].name, unit="call") as bar:
            host = DiffusersHost(model, on_step=lambda _, bar=bar: bar.update())
            bar.total = settings.model_calls(ready is not None, one_working_size(host, image, reference, settings))
            result = colorize(host, image, reference, settings, prepared=ready)
        ready = result.reference
        output.parent.mkdir(parents=True, exist_ok=True)
        save_picture(result.images, output)
        print(output)
        if not options.no_sheet:
            sheet = output.with_name(f"{output.stem}_sheet.png")
            save_picture(contact_sheet(image, reference, result), sheet)
            print(sheet)
    return 0


def _settings(options: argparse.Namespace, recommended: dict):
    """Settings from the command line, then the model's recommendation, then the paper."""
    from ..pipelines.exemplar import ColorizeSettings

    names = (
        "guidance",
        "passes",
        "depth",
        "steps",
        "resolution",
        "match_latents",
        "match_chroma",
        "layers",
        "convention",
        "postprocess",
        "gamma_shallow",
        "gamma_deep",
        "beta_shallow",
        "beta_deep",
    )
    chosen = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return ColorizeSettings.recommended(recommended, **chosen)
