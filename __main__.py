"""Command line: the pack's methods without ComfyUI.

python -m comfyui_exemplar colorize photo.png --reference example.png --model sd15.safetensors
python -m comfyui_exemplar auto photo.png --model ddcolor_modelscope.pth
python -m comfyui_exemplar translate photo.png --reference painting.png --model sd15.safetensors
python -m comfyui_exemplar describe photo.png --prompt "a green apple" --model lcad.ckpt
python -m comfyui_exemplar extract-deadiff deadiff.ckpt deadiff-adapter.safetensors
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# `python PATH/TO/PACK` has no package to import relatively from; say so instead of a puzzling traceback.
if not __package__:
    sys.exit("Run it as a module: python -m comfyui_exemplar (after `pip install -e .` in the pack's folder).")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="comfyui_exemplar", description="Color pictures by example.")
    commands = parser.add_subparsers(required=True, metavar="command")
    _add_colorize(commands)
    _add_auto(commands)
    _add_translate(commands)
    _add_describe(commands)
    _add_extract_deadiff(commands)
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, FileNotFoundError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _add_colorize(commands) -> None:
    command = commands.add_parser(
        "colorize",
        help="color gray pictures by a color reference",
        description="Colors gray pictures by a color reference (Kosugi 2025). Options left out are the model's "
        "recommendation: the paper's for Stable Diffusion, its own for the embedded model.",
    )
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
    command.set_defaults(run=_colorize)


def _colorize(options: argparse.Namespace) -> int:
    import torch
    from tqdm import tqdm

    from .demo import model_path
    from .files.pictures import load_picture, save_picture
    from .hosts.diffusers.checkpoint import load_standalone
    from .hosts.diffusers.host import DiffusersHost
    from .pipelines.exemplar import colorize, one_working_size
    from .pipelines.sheet import contact_sheet

    outputs = _output_paths(options.inputs, options.output)
    reference = load_picture(options.reference)
    pictures = [load_picture(path) for path in options.inputs]
    device, dtype = _device(options.device), getattr(torch, options.dtype)
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


def _add_auto(commands) -> None:
    command = commands.add_parser(
        "auto",
        help="color gray pictures with no reference",
        description="Colors gray pictures with no reference, by a DDColor network (Kang et al. 2023).",
    )
    command.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="gray picture(s), or frames of a video")
    command.add_argument(
        "--model",
        type=Path,
        help="DDColor file: ddcolor_modelscope, paper, artistic or paper_tiny, as "
        ".pth, .pt, .bin or .safetensors (default: the embedded one, made for drawings)",
    )
    command.add_argument("--output", type=Path, help="file for one input, folder for several (default: beside each)")
    command.add_argument(
        "--resolution",
        type=int,
        help="side of the square whose area the network works at (default: 512, "
        "128 for the embedded one); 0 keeps the pictures' own size",
    )
    command.add_argument("--saturation", type=float, default=1.0, help="0 is gray, 1 as the network gives it")
    command.add_argument("--strength", type=float, default=1.0, help="0 keeps the picture as it is, 1 recolors it")
    command.add_argument(
        "--steady",
        type=int,
        default=0,
        help="frames before and after that smooth a frame's color; the "
        "inputs are then the frames of one video, in order",
    )
    command.add_argument(
        "--arithmetic", choices=("exact", "official"), default="exact", help="official repeats the published program"
    )
    command.add_argument("--device", default="cpu", help="cpu, cuda, mps ...")
    command.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")
    command.set_defaults(run=_auto)


def _auto(options: argparse.Namespace) -> int:
    import torch
    from tqdm import tqdm

    from .demo import DDCOLOR_SIDE, ddcolor_path
    from .files.pictures import load_picture, save_picture
    from .networks.ddcolor.load import load_ddcolor
    from .pipelines.ddcolor import AutoColorSettings, auto_color

    outputs = _output_paths(options.inputs, options.output)
    resolution = options.resolution
    if resolution is None:
        resolution = AutoColorSettings.resolution if options.model else DDCOLOR_SIDE
    settings = AutoColorSettings(
        resolution=resolution,
        saturation=options.saturation,
        strength=options.strength,
        steady=options.steady,
        arithmetic=options.arithmetic,
    )
    pictures = [load_picture(path) for path in options.inputs]
    sizes = {tuple(picture.shape[1:3]) for picture in pictures}
    if options.steady and len(sizes) > 1:
        raise ValueError(
            f"--steady wants the frames of one video, but the inputs have {len(sizes)} sizes; leave it out."
        )
    device, dtype = _device(options.device), getattr(torch, options.dtype)
    network = load_ddcolor(options.model or ddcolor_path(), dtype=dtype, device=device)
    batches = [torch.cat(pictures)] if options.steady else pictures
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


def _add_translate(commands) -> None:
    command = commands.add_parser(
        "translate",
        help="draw pictures again with one reference picture's concept",
        description="Draws pictures again in the style, the material or as the thing of one reference picture, their "
        "content kept (VCT, Cheng et al. 2023). Options left out are the published program's, or the embedded model's "
        "own.",
    )
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
    command.set_defaults(run=_translate)


def _translate(options: argparse.Namespace) -> int:
    import torch
    from tqdm import tqdm

    from .demo import model_path
    from .files.pictures import load_picture, save_picture
    from .hosts.diffusers.checkpoint import load_standalone
    from .hosts.diffusers.vct import DiffusersTranslator
    from .hosts.diffusers.vct_text import load_concept_text, read_vectors, save_vectors
    from .pipelines.vct import TranslateSettings, learn, translate

    outputs = _output_paths(options.inputs, options.output, "translated")
    pictures = [load_picture(path) for path in options.inputs]
    reference = load_picture(options.reference) if options.reference else None
    device, dtype, path = _device(options.device), getattr(torch, options.dtype), options.model or model_path()
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


def _add_describe(commands) -> None:
    command = commands.add_parser(
        "describe",
        help="color gray pictures by words",
        description="Colors gray pictures by words, with L-CAD (Chang et al. 2023). Options left out are the published "
        "program's, or the embedded model's own.",
    )
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
    command.set_defaults(run=_describe)


def _describe(options: argparse.Namespace) -> int:
    import torch
    from tqdm import tqdm

    from .attention.instances import InstanceSettings
    from .demo import lcad_path
    from .diffusion.schedule import sampling_sigmas
    from .files.pictures import load_picture, save_picture
    from .hosts.diffusers.lcad import load_lcad
    from .pipelines.lcad import LCADSettings, describe

    outputs = _output_paths(options.inputs, options.output)
    pictures = [load_picture(path) for path in options.inputs]
    regions = [_region(text) for text in options.region]
    device, dtype = _device(options.device), getattr(torch, options.dtype)
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
    from .files.pictures import load_picture

    phrase, _, path = text.rpartition("=")
    if not phrase.strip() or not path.strip():
        raise ValueError(f"--region '{text}' is not understood; write PHRASE=MASK, such as 'green apple=apple.png'.")
    return phrase.strip(), load_picture(Path(path.strip())).mean(-1)


def _add_extract_deadiff(commands) -> None:
    command = commands.add_parser(
        "extract-deadiff",
        help="write what is new in DEADiff's checkpoint as a small file",
        description="DEADiff's checkpoint (Qi et al. 2024) holds a whole Stable Diffusion 1.5 besides its own encoder "
        "and "
        "projections. This writes only the latter, which is all that Load DEADiff reads.",
    )
    command.add_argument("checkpoint", type=Path, help="DEADiff's checkpoint, .ckpt or .safetensors")
    command.add_argument("adapter", type=Path, help="the .safetensors file to write")
    command.add_argument(
        "--dtype", choices=("float16", "bfloat16", "float32"), default="float16", help="float16 halves the file"
    )
    command.set_defaults(run=_extract_deadiff)


def _extract_deadiff(options: argparse.Namespace) -> int:
    import torch

    from .networks.deadiff.load import extract

    done = extract(options.checkpoint, options.adapter, getattr(torch, options.dtype))
    trunks = "both branches' image trunks are the same and kept once" if done["shared_trunk"] else "two image trunks"
    print(f"{options.adapter}: {done['tensors']} tensors, {done['bytes'] / 1e6:.1f} MB ({trunks})")
    return 0


def _output_paths(inputs: list[Path], output: Path | None, what: str = "colored") -> list[Path]:
    """Where each result goes; several inputs need a folder."""
    names = [f"{path.stem}_{what}.png" for path in inputs]
    if output is None:
        return [path.with_name(name) for path, name in zip(inputs, names, strict=True)]
    if len(inputs) == 1 and output.suffix:
        return [output]
    if output.suffix:
        raise ValueError(f"There are {len(inputs)} inputs, but --output names one file, {output}; name a folder.")
    if len(set(names)) < len(names):
        raise ValueError("Two inputs have the same file name; put their results into different folders.")
    return [output / name for name in names]


def _settings(options: argparse.Namespace, recommended: dict):
    """Settings from the command line, then the model's recommendation, then the paper."""
    from .pipelines.exemplar import ColorizeSettings

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


def _device(name: str):
    """A torch device that is really there."""
    import torch

    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {name} can't be used here ({reason}); use --device cpu.") from None
    return device


if __name__ == "__main__":
    sys.exit(main())
