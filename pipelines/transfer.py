"""Colors of an edited copy on the photograph's own pixels.

    original, edited --lightness made comparable--> global fit --> dense motion, there and back --> confidence
    edited --laid on the original's pixels--> chroma --> filled where unsure --> on the original's own lightness

Edit models zoom, shift and redraw what they color. What they were given is found again here, no weights needed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..color import as_picture, check_count, check_masks, is_gray, lab_to_rgb, merge_chroma, resize, rgb_to_lab
from ..color.flow import Motion, register
from ..color.transfer import carried, enlarged, filled
from ..memory.entries import ColorMemory
from ..memory.features import FeatureSource
from ..settings import Settings, setting, share
from .confidence import trust
from .memory import check_inputs
from .memory_settings import MemorySettings
from .transfer_memory import looked_up

log = logging.getLogger(__name__)

#: How sure a color memory must be of a place where the edit is not.
LOOKED_UP = MemorySettings().fallback_below
#: Told how many pictures are done, and the last one.
Progress = Callable[[int, "Tensor | None"], None]


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
    mask: Tensor | None = None,
    progress: Progress | None = None,
) -> TransferResult:
    """Color pictures with drifted, edited copies of themselves.

    :param original: (B, H, W, 3) in 0..1.
    :param edited: (1 or B, *, *, 3), the copies, of any size.
    :param fallback: (1 or B, *, *, 3), another coloring, for where the edit does not show a place.
    :param memory: colors by what places look like, for the same; asked through ``network``.
    :param network: gives the originals' features; without a memory, one is written from the edited copy.
    :param asking: how the memory is asked.
    :param device: where the memory is asked; None is where the features are.
    :param mask: (1 or B, *, *) in 0..1, where new colors go; elsewhere the original stays as it is.
    :param progress: called with the number of pictures that are done, between the stages of each with None, and with
        the last one, (H, W, 3), whenever one is. What it raises ends the work.
    :raises ValueError: pictures that are none, edits without color, numbers that do not fit.
    """
    original, edited = as_picture(original, "original"), as_picture(edited, "edited")
    check_count(len(edited), len(original), "edited")
    if fallback is not None:
        fallback = as_picture(fallback, "fallback")
        check_count(len(fallback), len(original), "fallback")
    mask = check_masks(mask, len(original), "mask")
    look = None
    if network is not None:
        asking = asking or MemorySettings()
        if memory is not None:
            check_inputs(network, original, memory, asking)
        look = partial(looked_up, network=network, asking=asking, memory=memory, device=device)
    elif memory is not None:
        raise ValueError("memory: found one without the network that wrote it, expected both; give the network, too.")
    if is_gray(edited):
        raise ValueError("edited: found no color in it, expected a colored copy of the original; connect the edit.")
    parts = []
    tell = progress or _nothing
    for i in range(len(original)):
        tell(i, None)
        parts.append(
            _transferred(
                original[i],
                edited[i % len(edited)],
                settings,
                None if fallback is None else fallback[i % len(fallback)],
                None if mask is None else mask[i % len(mask)],
                look,
                partial(tell, i, None),
            )
        )
        tell(i + 1, parts[-1][0])
    images, confidence, aligned, displacement = (torch.stack(each) for each in zip(*parts, strict=True))
    return TransferResult(images.to(original), confidence, aligned.to(original), displacement)


def _nothing(_done: int, _picture: Tensor | None) -> None:
    """Nobody wants to know."""


def _transferred(
    original: Tensor,
    edited: Tensor,
    settings: TransferSettings,
    fallback: Tensor | None,
    mask: Tensor | None,
    look: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] | None,
    pause: Callable[[], None],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    size = (original.shape[0], original.shape[1])
    found = register(original, edited, settings.motion, settings.reach)
    pause()
    frame = found.displacement.shape[:2]
    displacement = enlarged(found.displacement, size) * torch.tensor([size[1] / frame[1], size[0] / frame[0]])
    confidence = enlarged(found.confidence, size).clamp(0, 1)
    aligned = carried(edited.cpu(), found.displacement, size).clamp(0, 1)
    chroma = rgb_to_lab(aligned[None])[0, ..., 1:]
    share = trust(confidence, settings.fallback_below)
    if settings.fallback_below > 0 and bool((share < 1).any()):
        if fallback is None:
            other = filled(chroma, share)
        else:
            other = rgb_to_lab(resize(fallback[None].cpu().float(), size))[0, ..., 1:]
        if look is not None:
            alike, sure = look(original, chroma, share)
            other = torch.lerp(other, alike, trust(sure, LOOKED_UP)[..., None])
        chroma = torch.lerp(other, chroma, share[..., None])
    pause()
    where = None if mask is None else mask[None].cpu()
    images = merge_chroma(chroma[None], original[None].cpu(), saturation=settings.saturation, mask=where)
    return images[0], confidence, aligned, displacement


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
