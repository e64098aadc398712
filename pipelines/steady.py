"""Colors of a film's frames made steady, whatever colored them.

    colored frames --small--> chroma --averaged along each shot's motion--> chroma
    what that changes, enlarged along each frame's edges + the frames' own chroma -> on each frame's own lightness

The averaging is :mod:`..color.steady`. Only the difference that it makes is enlarged, so the detail of the colors stays
what it was. Nothing is carried over a cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from ..color import as_picture, check_masks, merge_chroma, resize, rgb_to_lab
from ..color.lab import luminance
from ..color.merge import at_size_of
from ..color.registration import frame_of, lightness_at, opencv
from ..color.steady import Colored, steadied_along
from ..settings import Settings, setting, share
from .frame_numbers import listed_starts

#: A cut by lightness: the side at which two frames are compared; the correlation below which they show other things;
#: and the part of their histograms that they have in common at least where the camera went fast, or a thing passed by.
SMALL, ALIKE, IN_COMMON = 32, 0.35, 0.75
NO_OPENCV = (
    "OpenCV is not installed, so colors are averaged in place, where lightness stays the same, and not along the "
    "motion; what moves stays less steady. Install it: pip install opencv-python-headless."
)
#: Told how many frames are done, and the last one of them; also between them, with None.
Progress = Callable[[int, "Tensor | None"], None]


@dataclass(frozen=True)
class SteadyColorSettings(Settings):
    """Everything a user can choose."""

    steadiness: float = share(
        0.94,
        "How much color is carried from frame to frame along the motion. 0 keeps each frame's own colors, and their "
        "flicker; high is steady, and slower to follow colors that truly change.",
        high=0.99,
    )
    strength: float = share(1.0, "0 returns the colors as they came, 1 the steady ones, between mixes the two.")
    cuts: str = setting(
        "",
        "Numbers of the frames at which shots begin, counted from 0 and separated by commas, such as 120, 388: no "
        "color is carried over a cut. Empty looks for cuts; 0 takes all frames as one shot.",
    )
    resolution: int = setting(
        512,
        "Longest side at which motion is followed and colors are averaged. Low is fast; high follows smaller things. "
        "The detail of colors and pictures stays whole either way.",
        low=64,
        high=2048,
        step=16,
        advanced=True,
    )
    ahead: int = setting(
        20,
        "How many later frames are looked at for each. Low needs less memory, and colors that come later are not heard "
        "of in time; high is steadier. 0 is the past alone, as in a live picture.",
        low=0,
        high=256,
        advanced=True,
    )

    @property
    def listed(self) -> tuple[int, ...]:
        """The frames at which shots begin, ascending, 0 first; () where cuts are to be looked for.

        :raises ValueError: something else than numbers of frames.
        """
        return listed_starts(self.cuts)


def steady_color(
    colored: Tensor,
    settings: SteadyColorSettings | None = None,
    *,
    image: Tensor | None = None,
    confidence: Tensor | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """The frames of a film in steady colors.

    :param colored: (B, *, *, 3) in 0..1, colored frames in order.
    :param image: (B, H, W, 3), the frames that they were made of, whose lightness and size the result has; None takes
        those of ``colored``.
    :param confidence: (1 or B, *, *) in 0..1, how sure the colors are; None is the same everywhere.
    :returns: (B, H, W, 3), dtype and device of ``image``.
    :raises ValueError: frames, masks or cuts that do not fit, before any work.
    """
    settings = settings or SteadyColorSettings()
    colored = as_picture(colored, "color_image")
    image = colored if image is None else as_picture(image, "image")
    if len(image) != len(colored):
        raise ValueError(
            f"image: found {len(image)} for {len(colored)} colored frame(s), expected one for each; connect the frames "
            "that were colored."
        )
    check_masks(confidence, len(colored), "confidence")
    if settings.listed and settings.listed[-1] >= len(colored):
        raise ValueError(
            f"cuts: found a shot that begins at frame {settings.listed[-1]}, but there are {len(colored)} frame(s), "
            "counted from 0; leave it out."
        )
    out = torch.empty_like(image)
    for number, picture in enumerate(_in_turn(colored, image, confidence, settings, progress)):
        out[number] = picture
        if progress is not None:
            progress(number + 1, picture)
    return out


def _in_turn(
    colored: Tensor,
    image: Tensor,
    confidence: Tensor | None,
    settings: SteadyColorSettings,
    progress: Progress | None,
) -> Iterator[Tensor]:
    """(H, W, 3) for each frame, in order."""
    size = frame_of(image.shape[1], image.shape[2], settings.resolution)
    for start, stop in pairwise([*starts_of(image, settings), len(image)]):
        small: dict[int, Tensor] = {}  # chroma of the frames that wait

        def looked(start: int = start, stop: int = stop, small: dict[int, Tensor] = small) -> Iterator[Colored]:
            for number in range(start, stop):
                if progress is not None:
                    progress(min(small, default=number), None)
                small[number] = _small_chroma(colored[number], size)
                yield Colored(lightness_at(image[number], size), small[number], _sure(confidence, number, size))

        for number, chroma in enumerate(
            steadied_along(looked(), keep=settings.steadiness, ahead=settings.ahead), start
        ):
            change = (chroma - small.pop(number)) * settings.strength
            yield _merged(colored[number], image[number], change)


def _small_chroma(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """(h, w, 2) of a picture (H, W, 3)."""
    return rgb_to_lab(resize(picture[None].to("cpu", torch.float32), size))[0, ..., 1:]


def _sure(confidence: Tensor | None, number: int, size: tuple[int, int]) -> Tensor:
    """(h, w) in 0..1."""
    if confidence is None:
        return torch.ones(size)
    mask = confidence[number % len(confidence)].to("cpu", torch.float32)
    return F.interpolate(mask[None, None], size, mode="bilinear", antialias=True)[0, 0].clamp(0, 1)


def _merged(colored: Tensor, image: Tensor, change: Tensor) -> Tensor:
    """(H, W, 3): a frame with the chroma of its colored copy and a change (h, w, 2) of that."""
    gray = image[None]
    own = rgb_to_lab(resize(colored[None].to("cpu", torch.float32), (image.shape[0], image.shape[1])))[..., 1:]
    lightness = luminance(gray.to("cpu", torch.float32))[..., None]
    return merge_chroma(own + at_size_of(lightness, change[None], "guided"), gray)[0]


def starts_of(image: Tensor, settings: SteadyColorSettings) -> list[int]:
    """First frames of all shots, ascending, 0 first.

    :param image: (B, H, W, 3) in 0..1; only lightness counts.
    """
    if settings.listed:
        return list(settings.listed)
    found, before = [0], None
    for number, picture in enumerate(image):
        plane = lightness_at(picture, (SMALL, SMALL))
        if before is not None and is_cut(before, plane):
            found.append(number)
        before = plane
    return found


def is_cut(before: Tensor, after: Tensor) -> bool:
    """Whether two neighboring frames, CIE L at a small size (h, w), are of different shots.

    They neither correlate, nor show much of the same lightness.
    """
    one, other = before - before.mean(), after - after.mean()
    flat = 1.0  # variance of what shows nothing
    both = (one * other).mean() + flat
    alike = float(both / ((one.square().mean() + flat) * (other.square().mean() + flat)).sqrt())
    shares = [torch.histc(plane, 16, 0, 100) / plane.numel() for plane in (before, after)]
    return alike < ALIKE and float(torch.minimum(*shares).sum()) < IN_COMMON


def notes() -> list[str]:
    """What to tell before the work."""
    return [NO_OPENCV] if opencv() is None else []
