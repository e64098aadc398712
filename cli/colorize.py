"""Color by reference pictures."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from . import inversions, sources
from . import options as common
from .batch import Job, plan
from .looking import add_looking

if TYPE_CHECKING:
    from torch import Tensor

    from ..pipelines.exemplar import ColorizeResult
    from ..pipelines.exemplar_references import References

NAME = "colorize"
HELP = "color gray pictures by color references"
DESCRIPTION = (
    "Colors gray pictures by one or more color references (Kosugi 2025), or by a color memory of references, strokes "
    "and a palette in one forward pass a picture. Options left out are the model's recommendation, else the paper's."
)

#: One picture in a model call: each is written as soon as it is done, and does not depend on what it is named with.
DEFAULTS = {"batch": 1}
#: What options of writing a memory begin with, and those of a palette.
WRITING, PALETTE = "memory_", "palette_"
#: A fallback has no option: it would need a picture for each input.
WITHOUT_OPTION = ("fallback_below",)


def add_options(command: argparse.ArgumentParser) -> None:
    from ..pipelines.exemplar_settings import ColorizeSettings
    from ..pipelines.memory_settings import MemorySettings, MethodSettings, PaletteSettings, WritingSettings
    from ..settings import entries

    command.set_defaults(usage=command.error)
    group = common.add_inputs(command, "gray picture(s)")
    group.add_argument("--no-sheet", action="store_true", help="no contact sheet (default: one beside each result)")
    group.add_argument(
        "--reference",
        action="append",
        type=sources.reference,
        metavar="A[@MASK][*WEIGHT]",
        default=[],
        help="color picture with the same kinds of things. Of a mask what is white counts; a weight says how much it "
        "counts beside others; may be given several times: then all serve every input, and with --method attention "
        "each costs an inversion (this, --strokes or --memory is required)",
    )
    group.add_argument(
        "--strokes",
        type=sources.masked,
        metavar="S[@MASK]",
        help="the first input with colors painted on it: marks are what differs from it, or what the mask or a "
        "transparency says. Other inputs take these colors where they look alike (default: none)",
    )
    group.add_argument(
        "--palette",
        type=sources.palette_text,
        metavar="P",
        help="colors that results are kept to: a picture, or a list such as '#c8102e,#003' (default: none)",
    )
    add_looking(
        group, "color memory of this model that --save-memory wrote; may be given several times (default: none)"
    )
    group.add_argument(
        "--save-memory",
        type=common.path,
        metavar="FILE",
        help="write all these colors to this .safetensors file; one that this command did not make is never replaced "
        "(default: they are not kept)",
    )
    inversions.add_options(group)
    method = entries(MethodSettings)["method"]
    group.add_argument(
        "--method",
        choices=method.options,
        help=f"{method.about.help} (default: attention with one reference, or with several where a setting is named "
        "that only it takes; else memory)",
    )
    common.add_checkpoint(command)
    shared = [name for name in entries(MemorySettings) if name in entries(ColorizeSettings)]
    listed = ", ".join(
        f"{common.flag_of(name)} ({DEFAULTS.get(name, entries(MemorySettings)[name].default)})"
        for name in shared
        if name not in WITHOUT_OPTION
    )
    title, about = "settings, memory", f"of --method memory; so are, by default as said here, {listed}"
    for advanced in (False, True):
        each = {"about": about, "advanced": advanced}
        common.add_settings(command, ColorizeSettings, WITHOUT_OPTION, defaults=DEFAULTS, advanced=advanced)
        common.add_settings(command, MemorySettings, shared, title=title, **each)
        common.add_settings(command, WritingSettings, entries(MemorySettings), WRITING, title=f"{title} file", **each)
        common.add_settings(command, PaletteSettings, ("colors",), PALETTE, title="settings, palette", **each)


def run(options: argparse.Namespace) -> int:
    from .colorize_memory import run as run_by_memory

    if not (options.reference or options.strokes or options.memory or options.inversion):
        options.usage("the following arguments are required: --reference (or --strokes, --memory or --inversion)")
    method, why = _method(options)
    return run_by_memory(options, why) if method == "memory" else _run_by_attention(options)


def _method(options: argparse.Namespace) -> tuple[Literal["attention", "memory"], str]:
    """The method that does what is named, and what a user should know who did not name it; "" where there is nothing.

    :raises ValueError: none does all of it, or not the one that is named.
    """
    from ..pipelines.exemplar_settings import ColorizeSettings
    from ..pipelines.memory_settings import MemorySettings, PaletteSettings, WritingSettings
    from ..settings import entries

    attention = [
        common.flag_of(name) for name in common.chosen(options, ColorizeSettings) if name not in entries(MemorySettings)
    ]
    kept = {"--inversion": options.inversion, "--save-inversion": options.save_inversion}
    attention += [name for name, there in kept.items() if there]
    parts = {
        "--strokes": options.strokes,
        "--palette": options.palette,
        "--memory": options.memory,
        "--save-memory": options.save_memory,
        "--encoder": options.encoder,
    }
    memory = [name for name, there in parts.items() if there]
    memory += [
        common.flag_of(prefix + name)
        for settings, prefix in ((MemorySettings, ""), (WritingSettings, WRITING), (PaletteSettings, PALETTE))
        for name in common.chosen(options, settings, prefix)
        if name not in entries(ColorizeSettings)
    ]
    others = {"attention": memory, "memory": attention}.get(options.method, [])
    if others:
        raise ValueError(f"--method {options.method} does not take {_and(others)}; leave that out, or --method.")
    if attention and memory:
        raise ValueError(
            f"--method attention alone takes {_and(attention)}, --method memory alone {_and(memory)}; leave one of "
            "them out."
        )
    if memory and not options.method:
        return "memory", f"--method memory, since only it takes {_and(memory)}."
    if len(options.reference) > 1 and not (options.method or attention):
        return "memory", "--method memory, which is the fast one of several references; attention takes them, too."
    return options.method or "attention", ""


def _and(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1])] * (len(names) > 1) + names[-1:])


def chosen_of(options: argparse.Namespace, *settings: Any) -> dict[str, Any]:
    """The settings of some classes that the command line names, and the command's own."""
    return {**DEFAULTS, **{name: value for one in settings for name, value in common.chosen(options, one).items()}}


def _run_by_attention(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ..demo import model_path
    from ..hosts.diffusers.checkpoint import load_standalone
    from ..hosts.diffusers.host import DiffusersHost
    from ..pipelines.exemplar_batches import calls_in_batches, colorize_in_batches
    from ..pipelines.exemplar_references import References
    from ..pipelines.exemplar_settings import ColorizeSettings

    chosen = chosen_of(options, ColorizeSettings)
    asked = ColorizeSettings.resolve(**chosen)  # what is out of range is refused before anything is read
    placed, path = common.checkpoint(options), options.model or model_path()
    batch = plan(
        options,
        sheets=not options.no_sheet and bool(options.reference),  # one shows the references
        pictures=sources.pictures(options.reference),
        files={"--model": path, "--vae": options.vae, "--inversion": options.inversion},
        folders=["--model", "--vae"],
        saves={"--save-inversion": options.save_inversion},
    )
    keeper = inversions.Keeper(options)
    reference, mask = _references(options.reference)
    if isinstance(reference, References):
        reference.check_settings(asked)
    model = load_standalone(path, **placed)
    settings = ColorizeSettings.resolve(model.recommended.get("exemplar", {}), **chosen)
    reference = keeper.check(DiffusersHost(model), reference, settings)
    pair = keeper.pair
    for group in batch.groups():  # pictures of one size share model calls
        with batch.working(), tqdm(desc=listed(group), unit="call") as bar:
            host = DiffusersHost(model, on_step=lambda _, bar=bar: bar.update())
            for start in range(0, len(group), settings.batch):
                jobs = group[start : start + settings.batch]
                images, done = batch.read(*jobs), 0
                if not start:
                    everyone = images[:1].expand(len(group), -1, -1, -1)  # no copies: sizes are all that counts
                    bar.total = calls_in_batches(host, everyone, reference, settings, pair)
                for result in colorize_in_batches(
                    host, images, reference, settings, prepared=pair, reference_mask=mask
                ):
                    pair = result.reference
                    keeper.keep(pair)
                    for index, job in enumerate(jobs[done : done + len(result.images)]):
                        sheet = None
                        if job.sheet is not None and reference is not None:
                            sheet = _sheet(images[done + index][None], reference, result.take(index))
                        batch.write(job, result.images[index][None], sheet)
                    done += len(result.images)
                    del result  # its features take more than all pictures
                del images
    return 0


def _references(named: Sequence[sources.Source]) -> tuple[Tensor | References | None, Tensor | None]:
    """One reference and its mask, or several with theirs; None where only their inversions are named."""
    from ..attention.union import leaves_any
    from ..files.pictures import load_picture
    from ..pipelines.exemplar_references import References

    masks = [sources.read_mask("--reference", source) for source in named]
    if not named:
        return None, None
    if len(named) == 1:
        return load_picture(named[0].path), masks[0]
    for source, mask in zip(named, masks, strict=True):
        if mask is not None and not leaves_any(mask):
            raise ValueError(
                f"--reference {source.path}: found nothing above one half in its mask {source.mask}, expected some "
                "white; paint it where the picture counts, or leave the reference out."
            )
    pictures = tuple(load_picture(source.path) for source in named)
    weights = tuple(1.0 if source.weight is None else source.weight for source in named)
    return References(pictures, tuple(masks), weights), None


def _sheet(image: Tensor, reference: Tensor | References, result: ColorizeResult) -> Tensor:
    from ..pipelines.exemplar_references import References
    from ..pipelines.sheet import contact_sheet, sheet_of_several

    if isinstance(reference, References):
        return sheet_of_several(image, reference, result)
    return contact_sheet(image, reference, result)


def listed(jobs: list[Job]) -> str:
    """Names for a progress bar."""
    first, more = jobs[0].source.name, len(jobs) - 1
    return f"{first} and {more} more" if more else first
