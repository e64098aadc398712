"""Draw pictures again with one reference picture's concept."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import options as common

NAME = "translate"
HELP = "draw pictures again with one reference picture's concept"
DESCRIPTION = (
    "Draws pictures again in the style, the material or as the thing of one reference picture, their "
    "content kept (VCT, Cheng et al. 2023). Options left out are the published program's, or the embedded model's "
    "own."
)


def add_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="picture(s) whose content is kept")
    concept = command.add_mutually_exclusive_group(required=True)
    concept.add_argument("--reference", type=Path, help="picture whose concept is learned")
    concept.add_argument("--concept", type=Path, help="embedding file that was learned before, for this model")
    command.add_argument("--output", type=Path, help="file for one input, folder for several (default: beside each)")
    command.add_argument(
        "--model",
        type=Path,
        help="SD 1.x, 2.x or SDXL checkpoint file or diffusers folder (default: the embedded model)",
    )
    command.add_argument("--guidance", type=float, help="higher gives more of the concept")
    command.add_argument("--cross-ratio", type=float, help="0..1, how long places keep what they are about")
    command.add_argument("--self-ratio", type=float, help="0..1, how long the layout is kept")
    command.add_argument("--concept-weight", type=float, help="factor on the concept's attention at first")
    command.add_argument(
        "--weight-place", choices=("intended", "official"), help="official repeats the published program"
    )
    command.add_argument("--steps", type=int, help="of the schedule")
    command.add_argument(
        "--pivot-iterations", type=int, help="most updates a step of the prompts that hold the picture; 0 does without"
    )
    command.add_argument("--updates", type=int, help="optimizer steps of the concept")
    command.add_argument("--learning-rate", type=float, help="of the concept")
    command.add_argument("--vectors", type=int, help="of the concept")
    command.add_argument("--word", help="where the concept starts")
    command.add_argument(
        "--resolution",
        type=int,
        help="side of the square whose area the model works at; 0 keeps the pictures' own size",
    )
    command.add_argument("--convention", choices=("consistent", "diffusers"), help="diffusers has the published levels")
    command.add_argument("--seed", type=int, help="of learning")
    command.add_argument("--save-concept", type=Path, help="write the learned vectors to this .safetensors file")
    command.add_argument("--device", default="cpu", help="cpu, cuda, mps ...")
    command.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")


def run(options: argparse.Namespace) -> int:
    import torch
    from tqdm import tqdm

    from ..demo import model_path
    from ..files.pictures import load_picture, save_picture
    from ..hosts.diffusers.checkpoint import load_standalone
    from ..hosts.diffusers.vct import DiffusersTranslator
    from ..hosts.diffusers.vct_text import load_concept_text, read_vectors, save_vectors
    from ..pipelines.vct import TranslateSettings, learn, translate

    outputs = common.output_paths(options.inputs, options.output, "translated")
    pictures = [load_picture(path) for path in options.inputs]
    reference = load_picture(options.reference) if options.reference else None
    device, dtype, path = common._device(options.device), getattr(torch, options.dtype), options.model or model_path()
    text = load_concept_text(path, device)
    model = load_standalone(path, dtype=dtype, device=device)
    names = (
        "guidance",
        "cross_ratio",
        "self_ratio",
        "concept_weight",
        "weight_place",
        "steps",
        "pivot_iterations",
        "updates",
        "learning_rate",
        "vectors",
        "word",
        "resolution",
        "convention",
        "seed",
    )
    chosen = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    settings = TranslateSettings.recommended(model.recommended, **chosen)
    host = DiffusersTranslator(model, text=text)
    if reference is not None:
        with tqdm(total=settings.concept.updates, desc="concept", unit="update") as bar:
            concept = learn(host, reference, settings, lambda _, __: bar.update())
    else:
        concept = host.of_vectors(*read_vectors(options.concept, text))
    if options.save_concept and concept.learned:
        save_vectors(options.save_concept, text, concept.learned)
        print(options.save_concept)
    for picture, source, output in zip(pictures, options.inputs, outputs, strict=True):
        with tqdm(desc=source.name, unit="step") as bar:
            host.on_step = lambda _, bar=bar: bar.update()
            result = translate(host, picture, concept, settings, on_progress=lambda _, __, bar=bar: bar.update())
        output.parent.mkdir(parents=True, exist_ok=True)
        save_picture(result.images, output)
        print(output)
    return 0
