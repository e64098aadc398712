"""Color by a memory of references, strokes, palettes and other memories: ``colorize --method memory``."""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import options as common
from . import sources
from .batch import Batch, plan
from .looking import look, networks, placement
from .terminal import note, say

if TYPE_CHECKING:
    from torch import Tensor

    from ..memory.entries import ColorMemory
    from ..pipelines.memory_settings import WritingSettings
    from .looking import Looking

log = logging.getLogger(__name__)

#: Height of the sources on a contact sheet.
_SMALL = 256


def run(options: argparse.Namespace, why: str) -> int:
    """Color by a memory.

    :param why: this is done, where the user did not say so.
    """
    from ..files.memories import KEY, MAKER, save_memory
    from ..files.owned import OwnPlace
    from ..pipelines.memory_settings import MemorySettings, WritingSettings
    from .colorize import WRITING, chosen_of

    chosen = chosen_of(options, MemorySettings)
    keys = common.chosen(options, WritingSettings, WRITING)
    MemorySettings.resolve(**chosen)  # what is out of range is refused before anything is read
    placed = placement(options, chosen)
    batch = plan(
        options,
        sheets=not options.no_sheet,
        pictures=_pictures(options),
        files={**{f"--memory {file}": file for file in options.memory}, **networks(options)},
        folders=["--model", "--encoder", "--vae"],
        saves={"--save-memory": options.save_memory},
    )
    place = OwnPlace(options.save_memory, KEY, MAKER) if options.save_memory else None
    made = _Made.checked(options)
    if why:
        note(why)  # not before: what is refused is one line
    looking = look(options, placed, chosen, made.known)
    writing = WritingSettings.resolve(looking.recommended, features=looking.asking.features, **keys)
    for file, memory in zip(options.memory, made.known, strict=True):
        if memory.made is not None:
            memory.made.check(looking.made, f"--memory {file}")
    with batch.working():
        memory = made.written(looking, writing)
    if place is not None:
        place.write(lambda path, new: save_memory(path, memory))
        say(place.path)
    _color(batch, looking, memory, made)
    return 0


def _pictures(options: argparse.Namespace) -> dict:
    """All pictures that are read beside the inputs, by what a message calls them."""
    named = sources.pictures(options.reference)
    if options.strokes:
        named |= {"--strokes": options.strokes.path, "the mask of --strokes": options.strokes.mask}
    if options.palette:
        named["--palette"] = sources.palette_file(options.palette)
    return named


@dataclass
class _Made:
    """What the memory is made of, once nothing stands against it.

    :param masks: of the references. ``small``: they and the strokes, for sheets.
    :param strokes: gray picture, painted picture and mask.
    :param known: memories from files. ``palette``: one of colors alone. ``colors``: the palette as a picture.
    """

    options: argparse.Namespace
    masks: list[Tensor | None]
    small: list[tuple[str, Tensor | None]]
    strokes: tuple[Tensor, Tensor, Tensor | None] | None
    known: list[ColorMemory]
    palette: ColorMemory | None
    colors: Tensor | None

    @classmethod
    def checked(cls, options: argparse.Namespace) -> _Made:
        """Read everything once, and refuse what cannot be used. Of references only small pictures are kept.

        :raises ValueError: nothing has color, or something covers nothing or fits nothing.
        """
        from ..files.memories import load_memory

        known = [load_memory(file) for file in options.memory]
        palette, colors = _palette(options)
        strokes = None if options.strokes is None else _strokes(options)
        masks, small, gray = [], [], []
        for each in options.reference:
            masks.append(sources.read_mask("--reference", each))
            picture, _ = sources.upright(each.path)
            if not sources.is_colored(picture):
                gray.append(str(each.path))
            small.append((each.path.name, _thumbnail(picture)))
            del picture
        if gray and len(gray) == len(options.reference) and strokes is None and not known:
            raise ValueError(f"--reference {', '.join(gray)}: found no color, expected color pictures; name some.")
        for name in gray:
            log.warning("%s has no color; what looks like it stays gray.", name)
        if strokes is not None:
            small.append(("strokes", _thumbnail(strokes[1])))
        small += [(name, None) for memory in known for name in memory.sources]
        return cls(options, masks, small, strokes, known, palette, colors)

    def written(self, looking: Looking, settings: WritingSettings) -> ColorMemory:
        """All of it as one memory; one model call a reference and one for strokes.

        :raises ValueError: what only the model can tell does not fit.
        """
        from tqdm import tqdm

        from ..files.pictures import load_picture
        from ..memory.entries import merged
        from ..pipelines.memory import write_references, write_strokes

        memories, calls = [], len(self.masks) + (self.strokes is not None)
        with tqdm(desc="memory", total=calls, unit="call", disable=not calls) as bar:
            for each, mask in zip(self.options.reference, self.masks, strict=True):
                memories.append(
                    write_references(
                        looking.network,
                        load_picture(each.path),
                        settings,
                        masks=mask,
                        weights=(each.weight or 1.0,),
                        names=(each.path.name,),
                        maker=looking.name,
                        beside_others=True,  # gray ones were told of before
                    )
                )
                bar.update()
            if self.strokes is not None:
                gray, painted, mask = self.strokes
                memories.append(write_strokes(looking.network, gray, painted, settings, mask=mask, maker=looking.name))
                bar.update()
        return merged([*memories, *self.known, *([self.palette] if self.palette else [])])


def _thumbnail(picture: Tensor) -> Tensor:
    from ..color import resize

    height, width = picture.shape[1:3]
    return resize(picture, (_SMALL, max(1, round(width * _SMALL / height)))).clone()


def _palette(options: argparse.Namespace) -> tuple[ColorMemory | None, Tensor | None]:
    """The memory of a palette, and its colors as a picture."""
    from ..pipelines.memory import write_palette
    from ..pipelines.memory_settings import PaletteSettings
    from .colorize import PALETTE

    chosen = common.chosen(options, PaletteSettings, PALETTE)
    if options.palette is None:
        if chosen:
            raise ValueError("--palette-by-lightness is about --palette, which is not there; name both.")
        return None, None
    file = sources.palette_file(options.palette)
    colors = PaletteSettings(options.palette).listed if file is None else sources.upright(file)[0]
    assert colors is not None
    settings = PaletteSettings.resolve(**chosen)
    try:
        return write_palette(colors, by_lightness=settings.by_lightness), colors
    except ValueError as error:
        raise ValueError(f"--palette {options.palette}: {str(error).removeprefix('palette: ')}") from error


def _strokes(options: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor | None]:
    """The first input, what was painted on it, and where, (1, H, W), if that is known.

    :raises ValueError: sizes that differ, or marks that cover nothing.
    """
    from ..color.sizes import size_of
    from ..pipelines.memory import check_strokes

    strokes = options.strokes
    gray, over = sources.upright(options.inputs[0])
    painted, alpha = sources.upright(strokes.path)
    called = f"--strokes {strokes.path}"
    if size_of(gray) != size_of(painted):
        raise ValueError(
            f"{called}: found {size_of(painted)[1]} x {size_of(painted)[0]} pixels on {options.inputs[0]} of "
            f"{size_of(gray)[1]} x {size_of(gray)[0]}, expected one size; paint on the first input itself."
        )
    mask = sources.read_mask("--strokes", strokes)
    if mask is None and alpha is not None and bool((alpha < 1).any()):
        mask = alpha
    try:
        check_strokes(on_white(gray, over), painted, mask)
    except ValueError as error:
        raise ValueError(f"{called}: {str(error).removeprefix('marks: ')}") from error
    return on_white(gray, over), painted, mask


def on_white(picture: Tensor, alpha: Tensor | None) -> Tensor:
    """A picture as it is colored: what is transparent is white."""
    import torch

    from ..color import drop_alpha

    return picture if alpha is None else drop_alpha(torch.cat([picture, alpha[..., None]], -1))


def _color(batch: Batch, looking: Looking, memory: ColorMemory, made: _Made) -> None:
    """Color all pictures, those of one size in shared model calls."""
    from tqdm import tqdm

    from ..pipelines.memory import color_in_batches
    from ..pipelines.sheet import memory_sheet
    from .colorize import listed

    settings = looking.asking
    others = [] if made.colors is None else [("palette", _swatch(made.colors))]
    for group in batch.groups():
        with batch.working(), tqdm(desc=listed(group), total=len(group), unit="picture") as bar:
            for start in range(0, len(group), settings.batch):
                jobs = group[start : start + settings.batch]
                images, done = batch.read(*jobs), 0
                for result in color_in_batches(looking.network, images, memory, settings, looking.out_of_memory):
                    for index, job in enumerate(jobs[done : done + len(result.images)]):
                        one, sheet = slice(index, index + 1), None
                        if job.sheet is not None:
                            sheet = memory_sheet(
                                images[done + index][None],
                                result.images[one],
                                result.confidence[one],
                                result.source[one],
                                made.small,
                                others,
                            )
                        batch.write(job, result.images[one], sheet)
                        bar.update()
                    done += len(result.images)


def _swatch(colors: Tensor) -> Tensor:
    """A palette for a sheet, (1, h, w, 3): a picture as it is, listed colors as bands."""
    if colors.shape[1] > 1:
        return colors
    return colors.movedim(2, 1).repeat_interleave(max(1, _SMALL // colors.shape[2]), 1).expand(-1, -1, 96, -1)
