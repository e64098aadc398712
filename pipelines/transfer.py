"""Colors of an edited copy on the photograph's own pixels.

    original, edited --lightness made comparable--> global fit --> dense motion, there and back --> confidence
    edited --laid on the original's pixels--> chroma --> filled where unsure --> on the original's own lightness

Edit models zoom, shift and redraw what they color. What they were given is found again here, no weights needed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..color import as_picture, check_count, chroma_of, fitted_rgb, is_gray, lab_to_rgb, resize, rgb_to_lab
from ..color.flow import LEAST_SIDE, Motion, Registration, register
from ..color.merge import at_size_of
from ..color.registration import opencv
from ..color.transfer import (
    aligned_chroma,
    carried,
    changed,
    enlarged,
    filled,
    fitting,
    lightness_of,
    strips,
)
from ..memory.entries import ColorMemory
from ..memory.features import FeatureSource
from ..settings import Settings, setting, share
from .confidence import trust
from .memory import MemoryResult, check_inputs, color_by_memory, write_references
from .memory_settings import MemorySettings, WritingSettings

log = logging.getLogger(__name__)

#: Correlation below which an edit may not show its original, or is turned; above which a turned one does; what the
#: confidence of an unrelated one can be at most; and the longest side at which turns are tried.
RELATED, TURNED, UNRELATED, SMALL = 0.25, 0.4, 0.25, 384
#: Confidence of a memory below which its colors are not taken.
MEMORY_BELOW = 0.3
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
    :param confidence: (B, H, W) in 0..1, how sure it is that the edit shows a place, and where.
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
    progress: Callable[[int], None] | None = None,
) -> TransferResult:
    """Color pictures with drifted, edited copies of themselves.

    Where the match is unsure, colors come from the memory where that is sure, else from the fallback, else from the
    surroundings.

    :param original: (B, H, W, 3) in 0..1.
    :param edited: (1 or B, *, *, 3), the copies, of any size.
    :param fallback: (1 or B, *, *, 3), another coloring, for where the edit does not show a place.
    :param memory: colors by what places look like, for the same; asked through ``network``.
    :param network: gives the originals' features; without a memory, one is written from each edited copy.
    :param asking: how the memory is asked.
    :param device: where the memory is asked; None is where the features are.
    :param progress: called with the number of pictures that are done.
    :raises ValueError: pictures that are none, edits without color, numbers that do not fit, a memory of another model.
    """
    original, edited, fallback = _checked(original, edited, fallback)
    asking = asking or MemorySettings()
    if memory is not None:
        if network is None:
            raise ValueError("memory: found one without the model that it is asked with; connect that, too.")
        check_inputs(network, original, memory, asking)
    notes = [NO_OPENCV] if settings.motion != "none" and opencv() is None else []
    out = TransferResult(
        torch.empty_like(original),
        torch.empty(original.shape[:3]),
        torch.empty_like(original),
        torch.empty(*original.shape[:3], 2),
    )
    for i in range(len(original)):
        copy = edited[i % len(edited)]
        found = _registered(original[i], copy, settings)
        copy = found.copy
        other = None
        if network is not None and settings.fallback_below > 0 and not found.unrelated:
            other = _remembered(network, original[i : i + 1], copy[None], memory, asking, device)
        backup = None if fallback is None else fallback[i % len(fallback)]
        _transfer(original[i], found, settings, other, backup, out, i)
        notes += [f"Picture {i + 1}: {note}" if len(original) > 1 else note for note in found.notes]
        if progress is not None:
            progress(i + 1)
    for note in notes:
        log.warning("%s", note)
    return replace(out, notes=tuple(notes))


def _checked(original: Tensor, edited: Tensor, fallback: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    original, edited = as_picture(original, "original"), as_picture(edited, "edited")
    check_count(len(edited), len(original), "edited")
    if fallback is not None:
        fallback = as_picture(fallback, "fallback")
        check_count(len(fallback), len(original), "fallback")
    gray = [i + 1 for i, one in enumerate(edited) if is_gray(one[None])]
    if gray:
        which = "" if len(edited) == 1 else f" in picture {', '.join(map(str, gray))}"
        raise ValueError(
            f"edited: found no color{which}, expected a colored copy of the original; connect the edit, and the gray "
            "picture as the original."
        )
    return original, edited, fallback


@dataclass(frozen=True)
class _Found:
    """A registration, and the copy that it is of: turned, if it had to be."""

    at: Registration
    copy: Tensor
    unrelated: bool
    notes: tuple[str, ...]


def _registered(original: Tensor, copy: Tensor, settings: TransferSettings) -> _Found:
    found = register(original, copy, settings.motion, settings.reach)
    if settings.motion == "none" or found.similarity >= RELATED or min(original.shape[:2]) < LEAST_SIDE:
        return _Found(found, copy, False, ())
    for name, turn in TURNS.items():
        turned = turn(copy)
        if register(original, turned, "global", longest=SMALL).similarity >= TURNED:
            again = register(original, turned, settings.motion, settings.reach)
            note = f"The edit is {name}; it was brought back before its colors were taken."
            return _Found(again, turned, False, (note,))
    still = register(original, copy, "none")
    note = (
        f"The edit does not seem to show the original (similarity {max(found.similarity, still.similarity):.2f}, "
        "expected about 0.4 or more). Its colors were laid on as they are, as a plain merge does; connect an edit of "
        "this very picture."
    )
    sure = torch.minimum(still.confidence, torch.tensor(UNRELATED))
    return _Found(replace(still, confidence=sure), copy, True, (note,))


def _remembered(
    network: FeatureSource,
    original: Tensor,
    copy: Tensor,
    memory: ColorMemory | None,
    asking: MemorySettings,
    device: torch.device | None,
) -> MemoryResult:
    if memory is None:
        memory = write_references(network, copy, WritingSettings(asking.features))
    return color_by_memory(network, original, memory, asking, device=device)


def _transfer(
    original: Tensor,
    found: _Found,
    settings: TransferSettings,
    other: MemoryResult | None,
    fallback: Tensor | None,
    out: TransferResult,
    index: int,
) -> None:
    """One picture, written to its place in the result."""
    size = (original.shape[0], original.shape[1])
    motion, sure = found.at.displacement, found.at.confidence
    frame = (sure.shape[0], sure.shape[1])
    lightness = lightness_of(original)
    if bool((motion == 0).all()):  # exactly what a merge without registration does
        chroma = at_size_of(lightness[None, ..., None], chroma_of(found.copy[None]), "guided")[0]
    else:
        chroma = aligned_chroma(found.copy, motion, lightness)
    out.aligned[index] = carried(fitting(found.copy, size), motion, size).clamp(0, 1)
    out.displacement[index] = enlarged(motion, size) * torch.tensor([size[1] / frame[1], size[0] / frame[0]])
    out.confidence[index] = enlarged(sure, size).clamp(0, 1)
    share = trust(sure, settings.fallback_below)
    if not found.unrelated and bool((share < 1).any()):
        _fill(chroma, lightness, share, other, fallback)
    chroma *= settings.saturation
    if settings.keep_unchanged:
        _keep(original, found.at, chroma, out.aligned[index])
    for rows in strips(*size):
        lab = torch.cat([lightness[rows, :, None], chroma[rows]], -1)
        out.images[index, rows] = fitted_rgb(lab[None])[0].to(original)


def _fill(
    chroma: Tensor, lightness: Tensor, share: Tensor, other: MemoryResult | None, fallback: Tensor | None
) -> None:
    """Other colors where the share of the edit's own is below 1, in place."""
    size = (chroma.shape[0], chroma.shape[1])
    frame = (share.shape[0], share.shape[1])
    if fallback is None:
        small = enlarged(lightness, frame)
        known = filled(enlarged(chroma, frame), share, small)
        known = at_size_of(lightness[None, ..., None], known[None], "guided")[0]
    else:
        known = rgb_to_lab(resize(fallback[None].cpu().float(), size))[0, ..., 1:]
    if other is not None:
        remembered = rgb_to_lab(other.images.cpu().float())[0, ..., 1:]
        known = torch.lerp(known, remembered, trust(other.confidence[0].cpu(), MEMORY_BELOW)[..., None])
    whole = enlarged(share, size)
    for rows in strips(*size):
        chroma[rows] = torch.lerp(known[rows], chroma[rows], whole[rows, :, None])


def _keep(original: Tensor, found: Registration, chroma: Tensor, aligned: Tensor) -> None:
    """The original's own chroma where the edit's is the same, in place."""
    size, frame = (chroma.shape[0], chroma.shape[1]), (found.confidence.shape[0], found.confidence.shape[1])
    own = rgb_to_lab(original[None].cpu().float())[0, ..., 1:]
    edit = rgb_to_lab(aligned[None].cpu().float())[0, ..., 1:]
    sigma = max(1.0, KEPT_OVER * max(frame))
    new = changed(enlarged(own, frame), enlarged(edit, frame), found.confidence, sigma)
    # what the edit does not show was not changed by it
    new = enlarged(new * trust(found.confidence, 0.5), size)
    for rows in strips(*size):
        chroma[rows] = torch.lerp(own[rows], chroma[rows], new[rows, :, None])


def displacement_picture(displacement: Tensor, most: float | None = None) -> Tensor:
    """Displacement as colors: hue is the direction, chroma the length.

    :param displacement: (B, H, W, 2), x and y in pixels.
    :param most: length in pixels that is most colorful; None is the longest in the batch.
    :returns: (B, H, W, 3) in 0..1.
    """
    length = displacement.float().norm(dim=-1, keepdim=True)
    scale = float(length.max()) if most is None else most
    chroma = displacement.float() / max(scale, 1e-6) * 60
    return lab_to_rgb(torch.cat([torch.full_like(length, 70.0), chroma], -1))
