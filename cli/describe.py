"""Color by words, with L-CAD."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import options as common

NAME = "describe"
HELP = "color gray pictures by words"
DESCRIPTION = (
    "Colors gray pictures by words, with L-CAD (Chang et al. 2023). Options left out are the published "
    "program's, or the embedded model's own."
)


def add_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="gray picture(s), all described alike")
    command.add_argument(
        "--prompt",
        default="",
        help="what is where in which color, things apart by commas: 'a green "
        "apple, a yellow bell'; left out, the colors are the model's choice",
    )
    command.add_argument("--negative", default="", help="what it should not be; usually left out")
    command.add_argument(
        "--region",
        action="append",
        default=[],
        metavar="PHRASE=MASK",
        help="keep a phrase of the "
        "prompt to a mask, a picture that is white there: 'green apple=apple.png'; may be "
        "repeated",
    )
    command.add_argument("--region-strength", type=float, default=1.0, help="how firmly; 0 leaves the masks out")
    command.add_argument("--model", type=Path, help="L-CAD's checkpoint (default: the embedded one, made for drawings)")
    command.add_argument(
        "--tokenizer",
        help="for a checkpoint: folder with CLIP's tokenizer, or its name on the hub, from "
        "which it is fetched (default: openai/clip-vit-large-patch14 from the hub's cache)",
    )
    command.add_argument("--output", type=Path, help="file for one input, folder for several (default: beside each)")
    command.add_argument("--steps", type=int, help="sampling steps; more is slower and a little finer")
    command.add_argument("--guidance", type=float, help="how much the words count; 1 is fastest, high is harsh")
    command.add_argument(
        "--resolution",
        type=int,
        help="side of the square whose area the networks work at; 0 keeps the pictures' own size",
    )
    command.add_argument("--shape", choices=("aspect", "official square"), default="aspect")
    command.add_argument(
        "--convention",
        choices=("consistent", "official"),
        default="consistent",
        help="official stops at the smallest noise level, as the published program does",
    )
    command.add_argument(
        "--exact-luminance",
        type=float,
        default=1.0,
        help="1 keeps the picture's own lightness, 0 takes the decoder's picture",
    )
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--device", default="cpu", help="cpu, cuda, mps ...")
    command.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")


def run(options: argparse.Namespace) -> int:
    import torch
    from tqdm import tqdm

    from ..attention.instances import InstanceSettings
    from ..demo import lcad_path
    from ..diffusion.schedule import sampling_sigmas
    from ..files.pictures import load_picture, save_picture
    from ..hosts.diffusers.lcad import load_lcad
    from ..pipelines.lcad import LCADSettings, describe

    outputs = common.output_paths(options.inputs, options.output)
    pictures = [load_picture(path) for path in options.inputs]
    regions = [_region(text) for text in options.region]
    device, dtype = common._device(options.device), getattr(torch, options.dtype)
    host = load_lcad(options.model or lcad_path(), dtype=dtype, device=device, tokenizer=options.tokenizer)
    chosen = {name: getattr(options, name) for name in ("steps", "guidance", "resolution")}
    chosen = host.recommended | {name: value for name, value in chosen.items() if value is not None}
    settings = LCADSettings(
        shape=options.shape,
        convention=options.convention,
        exact_luminance=options.exact_luminance,
        seed=options.seed,
        **chosen,
    )
    steps = len(sampling_sigmas(host.sigma_table, settings.steps)) - 1
    for path, image, output in zip(options.inputs, pictures, outputs, strict=True):
        with tqdm(desc=path.name, total=steps, unit="step") as bar:
            host.on_step = lambda _, bar=bar: bar.update()
            result = describe(
                host,
                image,
                options.prompt,
                settings,
                negative=options.negative,
                regions=regions,
                drawing=InstanceSettings(strength=options.region_strength),
            )
        output.parent.mkdir(parents=True, exist_ok=True)
        save_picture(result, output)
        print(output)
    return 0


def _region(text: str) -> tuple:
    """``phrase=mask.png`` -> the phrase and its mask (1, H, W) in 0..1."""
    from ..files.pictures import load_picture

    phrase, _, path = text.rpartition("=")
    if not phrase.strip() or not path.strip():
        raise ValueError(f"--region '{text}' is not understood; write PHRASE=MASK, such as 'green apple=apple.png'.")
    return phrase.strip(), load_picture(Path(path.strip())).mean(-1)
