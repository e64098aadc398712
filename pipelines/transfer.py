"""Colors of an edited copy on the photograph's own pixels.

    original, edited --lightness made comparable--> global fit --> dense motion, there and back --> confidence
    edited --laid on the original's pixels--> chroma --> filled where unsure --> on the original's own lightness

Edit models zoom, shift and redraw what they color. What they were given is found again here, no weights needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ..color import as_picture, check_count, check_masks, chroma_of, fitted_rgb, is_gray, resize, rgb_to_lab
from ..color.flow import RELATED, Motion, Registration, register
from ..color.merge import at_size_of
from ..color.registration import LEAST_SIDE, opencv
from ..color.transfer import (
    aligned_chroma,
    at_size,
    carried,
    changed,
    filled,
    fitting,
    lightness_of,
    strips,
)
from ..memory.entries import ColorMemory
from ..memory.features import FeatureSource
from ..settings import Settings, setting, share
from .confidence import trust
from .memory import check_inputs
from .memory_settings import MemorySettings
from .transfer_memory import looked_up

#: Correlation above which a turned edit shows the original; by how much it must be above that of the edit as it is;
#: from which on nothing else is tried; and the longest side at which turns are tried.
TURNED, BETTER, CERTAIN, SMALL = 0.4, 0.1, 0.75, 384
#: How sure a color memory must be of a place where the edit is not.
LOOKED_UP = MemorySettings().fallback_below
#: Told how many pictures are done, and the last one.
Progress = Callable[[int, "Tensor | None"], None]
#: Standard deviation over which colors are compared for ``keep_unchanged``, share of the longest side.
KEPT_OVER = 0.004
#: What an edit may have been done to as a whole, and how it is undone.
TURNS: dict[str, Callable[[Tensor], Tensor]] = {
    "mirrored": lambda copy: copy.flip(1),
    "upside down": lambda copy: copy.flip(0, 1),
    "turned to the right": lambda copy: copy.rot90(1, (0, 1)),
    "turned to the left": lambda copy: copy.rot90(-1, (0, 1)),
    "mirrored and upside down": lambda copy: copy.flip(0),
    "mirrored and turned to the right": lambda copy: copy.rot90(1, (0, 1)).flip(0),
    "mirrored and turned to the left": lambda copy: copy.rot90(-1, (0, 1)).flip(0),
}
NO_OPENCV = (
    "OpenCV is not installed, so only shift, zoom and turn of the whole picture are found, to about a pixel, and "
    "nothing that moved within it; install opencv-python-headless (any other OpenCV will do, too)."
)


@dataclass(frozen=True)
class TransferSettings(Settings):
    """How colors of an edited copy come to the original."""

    motion: Motion = setting(
        "local",
        "How the edit may differ in place. local finds one fit for the whole picture (zoom, shift, turn, perspective) "
        "and what moved within it; global the one fit alone; none lays the edit on as it is, as a plain merge does.",
    )
    reach: float = share(
        0.03,
        "How far a thing may have moved beside the whole picture's fit, in shares of the longest side. Low holds on to "
        "the fit and is steadier in grain and repeating patterns; high follows things that an edit has put elsewhere.",
        high=0.25,
        step=0.01,
        advanced=True,
    )
    fallback_below: float = share(
        0.5,
        "Where the match is less sure than this, colors come from elsewhere: from a color memory, the surroundings or "
        "the fallback. 0 takes the edit's own everywhere, 1 hardly anywhere. The confidence mask shows how sure it is.",
    )
    keep_unchanged: bool = setting(
        False,
        "On, an original that has colors keeps them where the edit left them alone, and only what was recolored is "
        "taken over. Off, all colors are the edit's.",
    )
    saturation: float = setting(
        1.0,
        "Colorfulness of what is taken over. 0 is gray, 1 is as in the edit, above 1 is stronger.",
        low=0.0,
        high=2.0,
        step=0.05,
        round=0.001,
    )


@dataclass(frozen=True)
class TransferResult:
    """Originals in their edits' colors.

    :param images: (B, H, W, 3) in 0..1, with the originals' own lightness.
    :param confidence: (B, H, W) in 0..1, how sure it is that the edit shows a place, and where; of what came from a
        color memory, how sure that was.
    :param aligned: (B, H, W, 3), the edited copies laid on the originals' pixels.
    :param displacement: (B, H, W, 2), x and y in pixels of the original: how far from where a plain resize puts it a
        place lies in the edit.
    :param notes: what was found that a user should know, a sentence each.
    """

    images: Tensor
    confidence: Tensor
    aligned: Tensor
    displacement: Tensor
    notes: tuple[str, ...] = ()


def transfer_colors(
    original: Tensor,
    edited: Tensor,
    settings: TransferSettings,
    *,
    fallback: Tensor | None = None,
    memory: ColorMemory | None = None,
    network: FeatureSource | None = None,
    asking: MemorySettings | None = None,
    device: torch.device | None = None,
    mask: Tensor | None = None,
    progress: Progress | None = None,
) -> TransferResult:
    """Color pictures with drifted, edited copies of themselves.

    Where the match is unsure, colors come from the memory where that is sure, else from the fallback, else from the
    surroundings.

    :param original: (B, H, W, 3) in 0..1.
    :param edited: (1 or B, *, *, 3), the copies, of any size.
    :param fallback: (1 or B, *, *, 3), another coloring, for where the edit does not show a place.
    :param memory: colors by what places look like, for the same; asked through ``network``.
    :param network: gives the originals' features; without a memory, one is written of what each copy shows.
    :param asking: how the memory is asked.
    :param device: where the memory is asked; None is where the features are.
    :param mask: (1 or B, *, *) in 0..1, where new colors go; elsewhere the original stays as it is.
    :param progress: called with the number of pictures that are done, between the stages of each with None, and with
        the last one, (H, W, 3), whenever one is. What it raises ends the work.
    :raises ValueError: pictures that are none, edits without color, numbers that do not fit, a memory of another model.
    """
    original, edited, fallback = _checked(original, edited, fallback)
    mask = check_masks(mask, len(original), "mask")
    look = None
    if network is not None:
        asking = asking or MemorySettings()
        if memory is not None:
            check_inputs(network, original, memory, asking)
        look = partial(looked_up, network=network, asking=asking, memory=memory, device=device)
    elif memory is not None:
        raise ValueError("memory: found one without the network that wrote it, expected both; give the network, too.")
    notes = [NO_OPENCV] if settings.motion != "none" and opencv() is None else []
    out = TransferResult(
        torch.empty_like(original),
        torch.empty(original.shape[:3]),
        torch.empty_like(original),
        torch.empty(*original.shape[:3], 2),
    )
    tell = progress or _nothing
    for i in range(len(original)):
        tell(i, None)
        own = settings
        if settings.keep_unchanged and is_gray(original[i : i + 1]):  # there is nothing to keep
            own = replace(settings, keep_unchanged=False)
        instead = _instead(own, fallback is not None, memory is not None)
        found = _registered(original[i], edited[i % len(edited)], own, instead)
        notes += [f"Picture {i + 1}: {note}" if len(original) > 1 else note for note in found.notes]
        tell(i, None)
        chroma = _laid_on(original[i], found, own, _part(fallback, i), look, out, i)
        tell(i, None)
        _finish(original[i], chroma, found.at, own, _part(mask, i), out, i)
        tell(i + 1, out.images[i])
    return replace(out, notes=tuple(notes))


def _nothing(_done: int, _picture: Tensor | None) -> None:
    """Nobody wants to know."""


def _part(batch: Tensor | None, index: int) -> Tensor | None:
    return None if batch is None else batch[index % len(batch)]


def _checked(original: Tensor, edited: Tensor, fallback: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    original, edited = as_picture(original, "original"), as_picture(edited, "edited")
    check_count(len(edited), len(original), "edited")
    if fallback is not None:
        fallback = as_picture(fallback, "fallback")
        check_count(len(fallback), len(original), "fallback")
    gray = [i + 1 for i, one in enumerate(edited) if is_gray(one[None])]
    if gray:
        which = "" if len(edited) == 1 else f" Picture {', '.join(map(str, gray))} has none."
        raise ValueError(
            "edited: found no color in it, expected a colored copy of the original; give the edit here, and the gray "
            f"picture as the original.{which}"
        )
    return original, edited, fallback


@dataclass(frozen=True)
class _Found:
    """A registration, and the copy that it is of: turned, if it had to be."""

    at: Registration
    copy: Tensor
    unrelated: bool
    notes: tuple[str, ...]


def _registered(original: Tensor, copy: Tensor, settings: TransferSettings, instead: str) -> _Found:
    found = register(original, copy, settings.motion, settings.reach)
    related = found.likeness >= RELATED
    upright = related and found.fit.upright
    small = settings.motion == "none" or min(original.shape[:2]) < LEAST_SIDE
    if small or (upright and found.likeness >= CERTAIN):
        return _Found(found, copy, False, ())
    # a face and its mirror image are alike, too
    still = register(original, copy, "global", longest=SMALL).similarity + BETTER if upright else 0.0
    name = _turn(original, copy, max(TURNED, still))
    if name is not None:
        turned = TURNS[name](copy)
        again = register(original, turned, settings.motion, settings.reach)
        note = f"The edit is {name}; it was brought back before its colors were taken."
        return _Found(again, turned, False, (note,))
    if related:
        return _Found(found, copy, False, ())
    plain = register(original, copy, "none")
    note = (
        f"The edit does not seem to show the original (similarity {max(found.likeness, plain.similarity):.2f}, "
        f"expected about {RELATED:.1f} or more). {instead}; give an edit of this very picture."
    )
    return _Found(plain, copy, True, (note,))


def _turn(original: Tensor, copy: Tensor, least: float) -> str | None:
    """What a copy was done to, if undoing that makes it more alike than so much."""
    best = None
    for name, turn in TURNS.items():
        found = register(original, turn(copy), "global", longest=SMALL)
        if found.fit.upright and found.similarity >= least:
            best, least = name, found.similarity
            if least >= CERTAIN:
                break
    return best


def _instead(settings: TransferSettings, fallback: bool, memory: bool) -> str:
    """What is done where an edit shows something else, a sentence without its end."""
    if settings.keep_unchanged:
        return "The original was left as it is"
    if settings.fallback_below > 0 and (fallback or memory):
        named = "the memory where it is sure" if memory else ""
        named += (", else from the fallback" if memory else "the fallback") if fallback else ""
        return f"Colors were taken from {named}"
    return "Its colors were laid on as they are, as a plain merge does"


def _laid_on(
    original: Tensor,
    found: _Found,
    settings: TransferSettings,
    fallback: Tensor | None,
    look: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] | None,
    out: TransferResult,
    index: int,
) -> Tensor:
    """(H, W, 2): chroma for one original; what else is known of it is written to its place in the result."""
    size = (original.shape[0], original.shape[1])
    motion, sure = found.at.displacement, found.at.confidence
    lightness = lightness_of(original)
    if bool((motion == 0).all()):  # exactly what a merge without registration does
        chroma = at_size_of(lightness[None, ..., None], chroma_of(found.copy[None]), "guided")[0]
    else:
        chroma = aligned_chroma(found.copy, motion, lightness)
    out.aligned[index] = carried(fitting(found.copy, size), motion, size).clamp(0, 1)
    scale = torch.tensor([size[1] / motion.shape[1], size[0] / motion.shape[0]])
    out.displacement[index] = at_size(motion, size) * scale
    out.confidence[index] = at_size(sure, size).clamp(0, 1)
    share = trust(sure, settings.fallback_below)
    if bool((share == 1).all()):
        return chroma
    whole = at_size(share, size)
    if fallback is None and found.unrelated:  # nothing around is surer
        if look is None:
            return chroma
        other = chroma.clone()
    elif fallback is None:
        frame = (share.shape[0], share.shape[1])
        small = filled(at_size(chroma, frame), share, at_size(lightness, frame))
        other = at_size_of(lightness[None, ..., None], small[None], "guided")[0]
    else:
        other = rgb_to_lab(resize(fallback[None].cpu().float(), size))[0, ..., 1:]
    if look is not None:
        alike, known = look(original, chroma, whole)
        found_there = trust(known, LOOKED_UP)
        other = torch.lerp(other, alike, found_there[..., None])
        # whoever gave the color says how sure it is
        out.confidence[index].lerp_(known, (1 - whole) * found_there)
    for rows in strips(*size):
        chroma[rows] = torch.lerp(other[rows], chroma[rows], whole[rows, :, None])
    return chroma


def _finish(
    original: Tensor,
    chroma: Tensor,
    found: Registration,
    settings: TransferSettings,
    mask: Tensor | None,
    out: TransferResult,
    index: int,
) -> None:
    """The picture, written to its place in the result, a strip after another."""
    size = (original.shape[0], original.shape[1])
    where = None if mask is None else at_size(mask.cpu().float(), size).clamp(0, 1)
    if settings.keep_unchanged:
        new = _changed(original, out.aligned[index], found)
        where = new if where is None else where * new
    for rows in strips(*size):
        lab = rgb_to_lab(original[None, rows].cpu().float())
        new = chroma[None, rows] * settings.saturation
        if where is not None:
            new = torch.lerp(lab[..., 1:], new, where[None, rows, :, None])
        out.images[index, rows] = fitted_rgb(torch.cat([lab[..., :1], new], -1))[0].to(original)


def _changed(original: Tensor, aligned: Tensor, found: Registration) -> Tensor:
    """(H, W) in 0..1: where an edit has other colors than its original. What it does not show was not changed by it."""
    frame = (found.confidence.shape[0], found.confidence.shape[1])
    own, edit = (rgb_to_lab(resize(picture[None].cpu().float(), frame))[0, ..., 1:] for picture in (original, aligned))
    new = changed(own, edit, found.confidence, max(1.0, KEPT_OVER * max(frame)))
    new = new * trust(found.confidence, 0.5)
    return at_size(new, (original.shape[0], original.shape[1])).clamp(0, 1)
