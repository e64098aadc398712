"""What a shot is colored from: references, and its key frames, which count the more the nearer they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..color import as_picture, check_masks, desaturate, resize, rgb_to_lab
from ..color.registration import frame_of
from ..memory.entries import ColorMemory, merged
from ..memory.features import FeatureSource
from ..memory.palette import GRAY
from ..memory.writing import check_cover, from_references
from .film_host import FilmFacts, FilmSource
from .film_settings import FilmSettings

#: Most that a key frame's aspect may differ from the film's, as a share.
ASPECT = 0.02


@dataclass(frozen=True)
class KeyFrame:
    """A frame of the film with its colors.

    :param number: of the frame, from 0.
    :param picture: (1, H, W, 3) in 0..1, of the film's proportions and any size.
    :param mask: (1, *, *) in 0..1, where its colors count; None for all of it.
    """

    number: int
    picture: Tensor
    mask: Tensor | None = None


def check_keys(keys: Sequence[KeyFrame], facts: FilmFacts, frames: int | None) -> tuple[KeyFrame, ...]:
    """Key frames in order, once nothing stands against them.

    :param frames: how many the film has; None where that is not known yet.
    :raises ValueError: beyond the end, twice, of other proportions, without color, or with a mask that covers nothing.
    """
    checked: dict[int, KeyFrame] = {}
    for key in keys:
        called = f"key frame {key.number}"
        if key.number < 0 or (frames is not None and key.number >= frames):
            last = "" if frames is None else f" to {frames - 1}"
            raise ValueError(f"{called}: the film has no such frame, expected a number from 0{last}; correct it.")
        if key.number in checked:
            raise ValueError(f"{called}: found two pictures of it, expected one; leave one out.")
        picture = as_picture(key.picture, called)
        if len(picture) != 1:
            raise ValueError(f"{called}: found {len(picture)} pictures, expected one; select one of the batch.")
        height, width = picture.shape[1:3]
        if abs(width * facts.height / (height * facts.width) - 1) > ASPECT:
            raise ValueError(
                f"{called}: found {width} x {height} pixels, expected the proportions of the film, {facts.width} x "
                f"{facts.height}; crop it to the frame that it shows."
            )
        small = resize(picture.cpu(), frame_of(height, width, 512))
        if not float(rgb_to_lab(small)[..., 1:].norm(dim=-1).max()) >= GRAY:
            raise ValueError(f"{called}: found no color in it, expected a colored frame; color it, or leave it out.")
        mask = check_masks(key.mask, 1, f"mask of {called}")
        check_cover(mask)
        checked[key.number] = KeyFrame(key.number, picture.cpu().float(), mask)
    return tuple(checked[number] for number in sorted(checked))


@dataclass(frozen=True)
class ShotMemory:
    """What a shot's frames ask.

    :param memory: entries of references, then of key frames, a source each.
    :param keys: numbers of those frames; the last sources are theirs.
    """

    memory: ColorMemory
    keys: tuple[int, ...] = ()

    def prior(self, number: int, reach: float) -> Tensor | None:
        """(sources,), for the logits of a frame: exp(-|t - k| / reach) is how much a key frame's entries count."""
        if not self.keys:
            return None
        away = [-abs(number - key) / reach for key in self.keys]
        return torch.tensor([0.0] * (len(self.memory.sources) - len(self.keys)) + away)


def shot_memory(
    memory: ColorMemory | None,
    keys: Sequence[KeyFrame],
    film: FilmSource,
    network: FeatureSource,
    settings: FilmSettings,
) -> ShotMemory | None:
    """A shot's memory; None where there is nothing to color by.

    :param memory: of references. ``keys``: of this shot.
    """
    own = [key_entries(key, film, network, settings, settings.key_weight) for key in keys]
    parts = [*([] if memory is None else [memory]), *own]
    return ShotMemory(merged(parts), tuple(key.number for key in keys)) if parts else None


def key_entries(
    key: KeyFrame, film: FilmSource, network: FeatureSource, settings: FilmSettings, weight: float
) -> ColorMemory:
    """A key frame's entries: what the film's own frame looks like, with the colors of the picture."""
    frame = next(iter(film.frames(key.number, key.number + 1)), None)
    if frame is None:
        raise ValueError(f"key frame {key.number}: the film ends before it; leave it out.")
    chroma = rgb_to_lab(key.picture)[..., 1:]
    return from_references(
        network.features(desaturate(frame.picture[None].float())),
        chroma,
        masks=key.mask,
        weights=(weight,),
        names=(f"key frame {key.number}",),
        context=settings.asking.features.context,
        maker=network.name,
    )


def key_chroma(key: KeyFrame, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Chroma (h, w, 2) of a key frame, and where it is given, (h, w) in 0..1, at a size."""
    planes = rgb_to_lab(key.picture)[..., 1:].movedim(-1, 1)
    if key.mask is None:
        chroma = F.interpolate(planes, size, mode="bilinear", antialias=True)
        return chroma[0].movedim(0, -1), torch.ones(size)
    # the mean of what counts: colors beside the mask are not the frame's
    mask = F.interpolate(key.mask.cpu().float()[:, None], tuple(planes.shape[2:]), mode="bilinear", antialias=True)
    both = F.interpolate(torch.cat([planes * mask, mask], 1), size, mode="bilinear", antialias=True)[0]
    given = both[2].clamp(0, 1)
    return (both[:2] / given.clamp_min(1e-4)).movedim(0, -1), given
