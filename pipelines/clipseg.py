"""Masks from texts: scores of a referring segmenter, taken to the picture's size and told apart."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..color.batches import Batches, freed
from ..color.sizes import size_of
from ..settings import Settings, setting

log = logging.getLogger(__name__)

#: (B, H, W, 3) in 0..1 and P phrases -> logits (B, P, h, w) of any size.
Segmenter = Callable[[Tensor, Sequence[str]], Tensor]


@dataclass(frozen=True)
class LoadSettings(Settings):
    """Where a segmenter may come from."""

    allow_download: bool = setting(
        False,
        "Off: nothing is ever fetched. On: the choice from the hub is, if it isn't there yet (about 600 MB, kept in "
        "models/clipseg) and the server's owner allows downloads, too: EXEMPLAR_ALLOW_DOWNLOADS=1 in ComfyUI's "
        "environment.",
    )


@dataclass(frozen=True)
class ReferringSettings(Settings):
    """How scores become masks."""

    threshold: float = setting(
        0.4,
        "How likely a place must be. Low takes in more around a thing, high only its surest parts; 0 gives soft masks.",
        low=0.0,
        high=0.99,
        step=0.05,
        round=0.001,
    )
    exclusive: bool = setting(True, "On: each place belongs to its likeliest phrase only. Off: masks may overlap.")


def refer(
    segment: Segmenter,
    images: Tensor,
    phrases: Sequence[str],
    settings: ReferringSettings,
    on_picture: Callable[[int], None] | None = None,
    out_of_memory: Callable[[Exception], bool] = freed,
) -> Tensor:
    """Where in pictures phrases apply.

    :param images: (B, H, W, 3) in 0..1.
    :param on_picture: called with the number of pictures done.
    :param out_of_memory: whether an error says that memory ran out: then fewer phrases are looked for at once.
    :returns: (B · P, H, W) in 0..1, picture after picture.
    :raises ValueError: no phrases.
    """
    if not phrases or not all(phrase.strip() for phrase in phrases):
        raise ValueError("phrases: found no phrase to look for, expected one or more; write one a line.")
    masks, at_once = [], Batches(len(phrases), out_of_memory, "phrase(s)")
    for i in range(len(images)):
        image = images[i : i + 1, ..., :3]
        found = at_once.of(len(phrases), lambda part, image=image: segment(image, phrases[part]))
        scores = torch.cat([some for _, some in found], 1)
        masks.append(masks_from_scores(scores, size_of(images), settings)[0])
        for phrase, score in zip(phrases, scores[0], strict=True):
            likely = float(score.max().sigmoid())
            if likely < settings.threshold:
                log.warning(
                    "'%s' is nowhere in picture %d at a threshold of %.2f; the likeliest place has %.2f.",
                    phrase,
                    i + 1,
                    settings.threshold,
                    likely,
                )
        if on_picture is not None:
            on_picture(i + 1)
    return torch.cat(masks)


def masks_from_scores(scores: Tensor, size: tuple[int, int], settings: ReferringSettings) -> Tensor:
    """(B, P, h, w) logits -> (B, P, H, W) masks in 0..1.

    Scores are enlarged, not masks: edges run between the places of the coarse map.
    """
    large = F.interpolate(scores.float(), size=tuple(size), mode="bilinear", align_corners=False)
    likely = large.sigmoid()
    masks = likely if settings.threshold == 0 else (likely >= settings.threshold).float()
    if settings.exclusive and scores.shape[1] > 1:
        best = large.argmax(1, keepdim=True)
        masks = masks * torch.zeros_like(masks).scatter_(1, best, 1.0)
    return masks


def tinted(images: Tensor, masks: Tensor) -> Tensor:
    """Masks (B · P, H, W) as colors over the gray version of pictures (B, H, W, 3), one color a phrase."""
    colors = torch.tensor(_COLORS)
    gray = images[..., :3].float().mean(-1, keepdim=True).expand(-1, -1, -1, 3).clone()
    sets = masks.unflatten(0, (len(images), -1))
    for i in range(sets.shape[1]):
        gray = torch.lerp(gray, 0.4 * gray + 0.6 * colors[i % len(colors)], sets[:, i, ..., None].to(gray))
    return gray


# hues that color-blind eyes tell apart (Okabe and Ito)
_COLORS = (
    (0.90, 0.62, 0.0),
    (0.34, 0.71, 0.91),
    (0.0, 0.62, 0.45),
    (0.94, 0.89, 0.26),
    (0.84, 0.37, 0.0),
    (0.80, 0.47, 0.65),
)
