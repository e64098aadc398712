"""Draw pictures again with one reference picture's concept."""

from __future__ import annotations

import argparse

from . import options as common
from .batch import plan
from .terminal import say

NAME = "translate"
HELP = "draw pictures again with one reference picture's concept"
DESCRIPTION = (
    "Draws pictures again in the style, the material or as the thing of one reference picture, their content kept "
    "(VCT, Cheng et al. 2023)."
)


def add_options(command: argparse.ArgumentParser) -> None:
    from ..pipelines.vct import TranslateSettings

    group = common.add_inputs(command, "picture(s) whose content is kept")
    concept = group.add_mutually_exclusive_group(required=True)
    concept.add_argument(
        "--reference", type=common.path, help="picture whose concept is learned (this or --concept is required)"
    )
    concept.add_argument(
        "--concept", type=common.path, help="embedding file that was learned before, for this model (or --reference)"
    )
    group.add_argument(
        "--save-concept",
        type=common.path,
        metavar="FILE",
        help="write the learned vectors to this .safetensors file; one that this command did not make is never "
        "replaced (default: they are not kept)",
    )
    common.add_checkpoint(command)
    common.add_settings(command, TranslateSettings)


def run(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ..demo import model_path
    from ..files.owned import OwnPlace
    from ..files.pictures import load_picture
    from ..hosts.diffusers.checkpoint import load_standalone
    from ..hosts.diffusers.vct import DiffusersTranslator
    from ..hosts.diffusers.vct_text import VECTORS_KEY, load_concept_text, read_vectors, save_vectors
    from ..pipelines.vct import TranslateSettings, learn, translate

    chosen = common.chosen(options, TranslateSettings)
    TranslateSettings.resolve(**chosen)  # what is out of range is refused before anything is read
    if options.save_concept and options.concept:
        raise ValueError("--save-concept keeps what is learned from --reference; with --concept nothing is learned.")
    placed, path = common.checkpoint(options), options.model or model_path()
    batch = plan(
        options,
        "translated",
        pictures={"--reference": options.reference},
        files={"--concept": options.concept, "--model": path, "--vae": options.vae},
        folders=["--model", "--vae"],
        saves={"--save-concept": options.save_concept},
    )
    place = OwnPlace(options.save_concept, VECTORS_KEY, "--save-concept") if options.save_concept else None
    reference = load_picture(options.reference) if options.reference else None
    text = load_concept_text(path, placed["device"])
    model = load_standalone(path, **placed)
    settings = TranslateSettings.resolve(model.recommended.get("vct", {}), **chosen)
    host = DiffusersTranslator(model, text=text)
    if reference is not None:
        with tqdm(total=settings.concept.updates, desc="concept", unit="update") as bar:
            concept = learn(host, reference, settings, lambda _phase, _progress: bar.update())
    else:
        concept = host.of_vectors(*read_vectors(options.concept, text))
    learned = concept.learned
    if place is not None and learned:
        place.write(lambda path, new: save_vectors(path, text, learned, new=new))
        say(place.path)
    for job in batch.jobs:
        with batch.working(), tqdm(desc=job.source.name, unit="step") as bar:
            host.on_step = lambda _, bar=bar: bar.update()
            result = translate(
                host, batch.read(job), concept, settings, on_progress=lambda _phase, _progress, bar=bar: bar.update()
            )
            batch.write(job, result.images)
    return 0
