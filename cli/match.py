"""Colors of references by statistics."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from . import options as common
from . import sources
from .batch import plan

if TYPE_CHECKING:
    from torch import Tensor

NAME = "match"
HELP = "give pictures the colors of a reference by statistics"
DESCRIPTION = (
    "Gives pictures, or the frames of a film, the colors of a reference by statistics alone: mean and spread, "
    "covariance, histogram or sliced optimal transport. No model is needed."
)


def add_options(command: argparse.ArgumentParser) -> None:
    from ..pipelines.match import MatchSettings

    group = common.add_inputs(
        command, "picture(s) to change; with statistics of more than each frame the frames of one film, in order"
    )
    group.add_argument(
        "--reference",
        nargs="+",
        action="extend",
        type=sources.masked,
        required=True,
        metavar="PICTURE[@MASK]",
        help="whose colors to take, of any size: one for all inputs, or one for each in their order; with whole batch "
        "and one frame any number of one size, which count together. Of a mask what is white counts. Named after the "
        "inputs (required)",
    )
    group.add_argument(
        "--mask",
        type=common.path,
        metavar="PICTURE",
        help="white where the inputs are matched: statistics are taken and colors changed there (default: everywhere)",
    )
    common.add_device(group)
    for advanced in (False, True):
        common.add_settings(command, MatchSettings, advanced=advanced)


def run(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ..pipelines.match import MatchSettings, match_colors

    settings = MatchSettings.resolve(**common.chosen(options, MatchSettings))
    apart, device = settings.statistics == "each frame", common.device(options)
    _check_numbers(options, settings.frame if settings.statistics == "one frame" else None, apart)
    batch = plan(
        options,
        "matched",
        pictures={**sources.pictures(options.reference), "--mask": options.mask},
        one_size="" if apart else f"--statistics {settings.statistics}",
    )
    mask = sources.read_mask("--mask", sources.Source(options.mask, options.mask)) if options.mask else None
    shared = None if apart and len(options.reference) > 1 else _references(options.reference)
    with batch.working(), tqdm(total=len(batch.jobs), unit="picture") as bar:
        for at, jobs in enumerate([[job] for job in batch.jobs] if apart else [batch.jobs]):
            pictures = batch.read(*jobs)
            reference, counted = shared or _references(options.reference[at : at + 1])
            made = match_colors(pictures, reference, settings, mask=mask, reference_mask=counted, device=device)
            for number, job in enumerate(jobs):
                batch.write(job, made[number : number + 1])
                bar.update()
    return 0


def _check_numbers(options: argparse.Namespace, frame: int | None, apart: bool) -> None:
    """Whether there are as many of everything as there must be.

    :param frame: the one whose statistics count; None where all do.
    """
    inputs, references = len(options.inputs), len(options.reference)
    if frame is not None and frame >= inputs:
        raise ValueError(f"--frame is {frame}, but there are {inputs} input(s), which count from 0; name one of them.")
    if apart and references not in (1, inputs):
        raise ValueError(
            f"--reference names {references} pictures for {inputs} input(s); name one for all, or one for each, or "
            "choose --statistics 'whole batch', which takes any number together."
        )


def _references(named: list[sources.Source]) -> tuple[Tensor, Tensor | None]:
    """(n, H, W, 3) of references, and their masks, (n, H, W) at their size.

    :raises ValueError: references of several sizes.
    """
    import torch

    from ..color.transfer import at_size
    from ..files.pictures import load_picture

    pictures = [load_picture(source.path) for source in named]
    height, width = pictures[0].shape[1:3]
    for source, picture in zip(named, pictures, strict=True):
        if tuple(picture.shape[1:3]) != (height, width):
            raise ValueError(
                f"--reference {source.path}: found {picture.shape[2]} x {picture.shape[1]} pixels, expected {width} x "
                f"{height}, as {named[0].path} has; scale it to that, since they count together."
            )
    masks = [sources.read_mask("--reference", source) for source in named]
    if all(mask is None for mask in masks):
        return torch.cat(pictures), None
    whole = torch.ones(height, width)
    each = [whole if mask is None else at_size(mask[0], (height, width)).clamp(0, 1) for mask in masks]
    return torch.cat(pictures), torch.stack(each)
