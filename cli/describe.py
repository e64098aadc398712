"""Color by words, with L-CAD."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import options as common
from .batch import plan

NAME = "describe"
HELP = "color gray pictures by words"
DESCRIPTION = "Colors gray pictures by words, with L-CAD (Chang et al. 2023)."

#: What options of the regions begin with.
_REGION = "region_"


def add_options(command: argparse.ArgumentParser) -> None:
    from ..attention.instances import InstanceSettings
    from ..pipelines.lcad import LCADSettings

    group = common.add_inputs(command, "gray picture(s), all described alike")
    group.add_argument(
        "--prompt",
        default="",
        metavar="TEXT",
        help="what is where in which color, things apart by commas: 'a green apple, a yellow bell' (default: empty, "
        "the colors are the model's choice)",
    )
    group.add_argument(
        "--negative", default="", metavar="TEXT", help="what it should not be; usually left out (default: empty)"
    )
    group.add_argument(
        "--region",
        action="append",
        default=[],
        metavar="PHRASE=MASK",
        help="keep a phrase of the prompt to a mask, a picture that is white there: 'green apple=apple.png'; may be "
        "repeated (default: none)",
    )
    model = common.add_model(command, "L-CAD's checkpoint (default: the embedded one, made for drawings)")
    model.add_argument(
        "--tokenizer",
        type=common.place,
        metavar="PLACE",
        help="for a checkpoint: folder with CLIP's tokenizer, or the name openai/clip-vit-large-patch14 to fetch it "
        "from the hub (default: what the hub's cache has of it)",
    )
    common.add_settings(command, LCADSettings)
    common.add_settings(command, InstanceSettings, prefix=_REGION, title="regions")


def run(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ..attention.instances import InstanceSettings
    from ..demo import lcad_path
    from ..diffusion.schedule import sampling_sigmas
    from ..files.masks import load_mask
    from ..hosts.diffusers.lcad import load_lcad
    from ..pipelines.lcad import LCADSettings, describe

    chosen = common.chosen(options, LCADSettings)
    LCADSettings.resolve(**chosen)  # what is out of range is refused before anything is read
    drawing = InstanceSettings.resolve(**common.chosen(options, InstanceSettings, _REGION))
    regions = [_region(text) for text in options.region]
    placed, path = common.placement(options), options.model or lcad_path()
    masks = {f"--region {phrase}": mask for phrase, mask in regions}
    batch = plan(options, pictures=masks, files={"--model": path})
    masked = [(phrase, load_mask(mask)) for phrase, mask in regions]
    host = load_lcad(path, tokenizer=options.tokenizer, **placed)
    settings = LCADSettings.resolve(host.recommended, **chosen)
    steps = len(sampling_sigmas(host.sigma_table, settings.steps, settings.convention)) - 1
    for job in batch.jobs:
        with batch.working(), tqdm(desc=job.source.name, total=steps, unit="step") as bar:
            host.on_step = lambda _, bar=bar: bar.update()
            colored = describe(
                host,
                batch.read(job),
                options.prompt,
                settings,
                negative=options.negative,
                regions=masked,
                drawing=drawing,
            )
            batch.write(job, colored)
    return 0


def _region(text: str) -> tuple[str, Path]:
    """``phrase=mask.png`` -> the phrase and where its mask is."""
    phrase, _, path = text.rpartition("=")
    if not phrase.strip() or not path.strip():
        raise ValueError(f"--region '{text}' is not understood; write PHRASE=MASK, such as 'green apple=apple.png'.")
    return phrase.strip(), Path(path.strip())
