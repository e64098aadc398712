"""Automatic color by DDColor (Kang et al., ICCV 2023, arXiv 2212.11613), on any host.

    picture --shrunk, without color--> network --> chroma --steadied over frames--> chroma
    lightness of the picture + chroma, enlarged along its edges -> picture, at its own size

The published program squeezes every picture into a square, without a filter against aliasing, and enlarges chroma by
repeating places; ``official`` arithmetic does the same, with OpenCV's Lab and 8 bits at the end. Ours keeps the aspect
ratio, filters, and hands chroma to the merge that all color of this pack goes through.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..color import (
    as_picture,
    check_masks,
    luminance,
    luminance_to_rgb,
    merge_chroma,
    opencv_lab_to_rgb,
    opencv_rgb_to_lab,
    resize,
    steadied,
    steady_chroma,
    to_uint8,
)
from ..color.batches import Batches
from ..color.merge import Gamut, Upsampling
from ..color.sizes import size_of, working_size
from ..networks.ddcolor.model import MULTIPLE
from ..settings import Settings, setting, share

#: Most frames in one call where they come one after another: more would be held for hardly any speed.
MOST_IN_TURN = 16

#: Called with the number of frames that are done.
OnFrames = Callable[[int], None]


class ColorNetwork(Protocol):
    """What the pipeline asks of a loaded network."""

    def __call__(self, gray: Tensor) -> Tensor:
        """(n, 3, h, w) in 0..1 on the CPU -> a and b, (n, 2, h, w), float32 on the CPU."""
        ...

    def frames_at_once(self, frames: int, height: int, width: int) -> int:
        """How many of some frames of this size to hand over at once, at least 1."""
        ...

    def out_of_memory(self, error: Exception) -> bool:
        """Whether an error says that memory ran out; if so, what can be freed is freed."""
        ...


@dataclass(frozen=True)
class AutoColorSettings(Settings):
    """Everything a user can choose."""

    resolution: int = setting(
        512,
        "The network works at the area of a square with this side, in sides that are multiples of 32. Low: larger and "
        "calmer areas of color, fast. High: more detail, more patchwork, slow. Best is what the network was trained "
        "for. 0 is the picture's own size.",
        low=0,
        high=4096,
        step=32,
        auto=True,
    )
    saturation: float = setting(
        1.0,
        "Colorfulness of the new colors: 0 is gray, 1 as the network gives them, above 1 stronger.",
        low=0.0,
        high=3.0,
        step=0.05,
        round=0.001,
    )
    strength: float = share(
        1.0,
        "0 returns the picture as it is, 1 puts the new colors in the place of whatever color it has, between mixes "
        "the two.",
    )
    steady: int = setting(
        0,
        "For video: how many frames before and after smooth a frame's color. 0 is off, for single pictures. 2 to 4 "
        "calm flicker; high values are slower. A neighboring frame counts less where its lightness differs, so what "
        "moves keeps its own color and nothing is carried over a cut.",
        low=0,
        high=32,
    )
    shape: Literal["aspect", "square"] = setting(
        "aspect",
        "aspect keeps the picture's proportions; square squeezes it into a square, as the published program does.",
        published="square",
        advanced=True,
    )
    upsampling: Upsampling = setting(
        "guided",
        "How colors come to the picture's size: guided lets them follow its edges (fast guided filter), smooth is "
        "bilinear and blurs across them.",
        advanced=True,
    )
    gamut: Gamut = setting(
        "fit",
        "Colors that no screen can show: fit makes them paler at the same lightness and hue; clip cuts each channel, "
        "which changes lightness.",
        published="clip",
        advanced=True,
    )
    arithmetic: Literal["exact", "official"] = setting(
        "exact",
        "exact is everything above. official repeats the published program: a square input, shrunk without "
        "antialiasing, OpenCV's Lab, colors put down in blocks, 8 bits. It heeds resolution and batch only.",
        published="official",
        advanced=True,
    )
    batch: int = setting(
        0,
        "Most frames in one call. Low saves memory, high is faster on a GPU. 0 takes what fits the free memory (on a "
        "CPU one at a time, which is fastest there). Halved by itself when memory runs out; a picture is never cut "
        "into tiles, whose colors would differ.",
        low=0,
        high=256,
        advanced=True,
    )


def network_size(height: int, width: int, settings: AutoColorSettings) -> tuple[int, int]:
    """(height, width) that the network works at, multiples of 32."""
    if settings.arithmetic == "official" or settings.shape == "square":
        side = settings.resolution or max(height, width)
        side = max(MULTIPLE, round(side / MULTIPLE) * MULTIPLE)
        return side, side
    return working_size(height, width, settings.resolution, MULTIPLE, MULTIPLE)


def auto_color(
    network: ColorNetwork,
    image: Tensor,
    settings: AutoColorSettings | None = None,
    *,
    mask: Tensor | None = None,
    on_frames: OnFrames | None = None,
    batches: Batches | None = None,
) -> Tensor:
    """Color pictures, or the frames of a video, from nothing but themselves.

    :param image: (B, H, W, 3) in 0..1; only luminance is used.
    :param mask: (1 or B, *, *) in 0..1, where the new color goes; elsewhere the picture stays as it is.
    :param on_frames: called after every network call with the number of frames that are done.
    :param batches: of earlier calls, which know how many frames memory has room for; None begins anew.
    :returns: (B, H, W, 3), at the pictures' own size, dtype and device.
    :raises ValueError: pictures, masks or settings that do not fit, before the network runs.
    """
    settings = settings or AutoColorSettings()
    image = as_picture(image, "image")
    if mask is not None:
        _check_mask(mask, image)
    if settings.arithmetic == "official":
        return _official(network, image, settings, on_frames, batches)
    if settings.strength == 0:
        return image
    return _merged(predict_chroma(network, image, settings, on_frames, batches), image, settings, mask)


def auto_color_in_turn(
    network: ColorNetwork,
    frames: Iterable[Tensor],
    settings: AutoColorSettings,
    *,
    count: int,
    on_frames: OnFrames | None = None,
) -> Iterator[Tensor]:
    """:func:`auto_color` for the frames of a video that come one after another.

    Each is given out as soon as it is done. Held are those of one network call and those that wait for ``steady`` later
    ones, however long the video is.

    :param frames: each (1, H, W, 3) in 0..1, all of one size.
    :param count: how many there are.
    :returns: (1, H, W, 3) for each frame, in order.
    :raises ValueError: pictures or settings that do not fit.
    """
    waiting: deque[Tensor] = deque()
    batches = Batches(settings.batch or MOST_IN_TURN, network.out_of_memory)

    def predicted() -> Iterator[tuple[Tensor, Tensor]]:
        for image, progress in _calls(network, frames, settings, count, on_frames, batches):
            waiting.extend(image.split(1))
            chroma, lightness = _predict(network, image, settings, progress, batches)
            if lightness is not None:
                yield from zip(chroma, lightness, strict=True)

    if settings.arithmetic == "official" or settings.strength == 0 or not settings.steady:  # no frame knows another
        for image, progress in _calls(network, frames, settings, count, on_frames, batches):
            yield from auto_color(network, image, settings, on_frames=progress, batches=batches).split(1)
        return
    for chroma in steadied(predicted(), settings.steady):
        yield _merged(chroma[None], waiting.popleft(), settings)


def _calls(
    network: ColorNetwork,
    frames: Iterable[Tensor],
    settings: AutoColorSettings,
    count: int,
    on_frames: OnFrames | None,
    batches: Batches,
) -> Iterator[tuple[Tensor, OnFrames]]:
    """Frames in batches of a network call, (n, H, W, 3), each with what to call with its number of done frames."""
    source, done = iter(frames), 0
    for first in source:
        size = network_size(*size_of(as_picture(first, "image")), settings)
        at_once = batches.at_once
        if not settings.batch:
            at_once = min(network.frames_at_once(count - done, *size), at_once)
        image = as_picture(torch.cat([first, *islice(source, at_once - 1)]) if at_once > 1 else first, "image")

        def progress(frames: int, before: int = done) -> None:
            if on_frames is not None:
                on_frames(before + frames)

        yield image, progress
        done += len(image)


def _merged(chroma: Tensor, image: Tensor, settings: AutoColorSettings, mask: Tensor | None = None) -> Tensor:
    """Chroma (B, h, w, 2) on the lightness of (B, H, W, 3)."""
    return merge_chroma(
        chroma,
        image,
        saturation=settings.saturation,
        strength=settings.strength,
        mask=mask,
        gamut=settings.gamut,
        upsampling=settings.upsampling,
    )


def predict_chroma(
    network: ColorNetwork,
    image: Tensor,
    settings: AutoColorSettings,
    on_frames: OnFrames | None = None,
    batches: Batches | None = None,
) -> Tensor:
    """Chroma at the network's size, steadied over frames where that is asked for.

    :param image: (B, H, W, 3) in 0..1.
    :returns: (B, h, w, 2) float32 on the CPU, a and b in Lab units.
    """
    chroma, lightness = _predict(network, image, settings, on_frames, batches)
    return chroma if lightness is None else steady_chroma(chroma, lightness, settings.steady)


def _predict(
    network: ColorNetwork,
    image: Tensor,
    settings: AutoColorSettings,
    on_frames: OnFrames | None,
    batches: Batches | None,
) -> tuple[Tensor, Tensor | None]:
    """What the network says of each frame, (B, h, w, 2), and if it is to be steadied, its lightness, (B, h, w)."""
    size = network_size(*size_of(image), settings)
    kept: list[Tensor] = []

    def prepare(frames: Tensor) -> Tensor:
        lightness = luminance(resize(frames.to("cpu", torch.float32), size))
        gray = luminance_to_rgb(lightness).movedim(-1, 1)
        if settings.steady:  # last, as it is asked for the same frames again where memory runs out before
            kept.append(lightness)
        return gray

    chroma = run_in_chunks(network, image, size, prepare, batches or settings.batch, on_frames).movedim(1, -1)
    return chroma, torch.cat(kept) if kept else None


def run_in_chunks(
    network: ColorNetwork,
    image: Tensor,
    size: tuple[int, int],
    prepare: Callable[[Tensor], Tensor],
    batch: int | Batches = 0,
    on_frames: OnFrames | None = None,
) -> Tensor:
    """The network on all frames, as many at once as memory allows, never on parts of a picture: colors would differ.

    :param prepare: frames (n, H, W, 3) -> what the network is given, (n, 3, h, w); called once a frame.
    :param batch: most frames in one call; 0 asks the network. Or the batches of earlier calls.
    :returns: (B, 2, h, w).
    :raises RuntimeError: what the network raises, if one frame alone is already too much.
    """
    ready = torch.empty(0)  # frames that are prepared and not colored yet

    def color(part: slice) -> Tensor:
        nonlocal ready
        missing = image[part.start + len(ready) : part.stop]
        if len(missing):
            ready = torch.cat([ready, prepare(missing)]) if len(ready) else prepare(missing)
        chroma = network(ready[: part.stop - part.start])
        ready = ready[len(chroma) :]
        return chroma

    if not isinstance(batch, Batches):
        batch = Batches(batch or network.frames_at_once(len(image), *size), network.out_of_memory)
    chroma = []
    for part, colored in batch.of(len(image), color):
        chroma.append(colored)
        if on_frames is not None:
            on_frames(part.stop)
    return torch.cat(chroma)


def _official(
    network: ColorNetwork,
    image: Tensor,
    settings: AutoColorSettings,
    on_frames: OnFrames | None,
    batches: Batches | None,
) -> Tensor:
    """The published steps, for any number of pictures."""
    size = network_size(*size_of(image), settings)

    def prepare(frames: Tensor) -> Tensor:
        return official_input(frames, size)

    chroma = run_in_chunks(network, image, size, prepare, batches or settings.batch, on_frames)
    out = torch.empty_like(image)
    for index, frame in enumerate(image):
        out[index] = official_output(frame[None], chroma[index : index + 1])[0]
    return out


def official_input(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """What the published program gives its network: squeezed without antialiasing, then without color.

    :param frames: (n, H, W, 3) in 0..1.
    :returns: (n, 3, h, w) float32 on the CPU.
    """
    small = F.interpolate(frames.to("cpu", torch.float32).movedim(-1, 1), size, mode="bilinear", align_corners=False)
    lab = opencv_rgb_to_lab(small.movedim(1, -1))
    lab[..., 1:] = 0
    return opencv_lab_to_rgb(lab).movedim(-1, 1)


def official_output(frame: Tensor, chroma: Tensor) -> Tensor:
    """How the published program puts a picture together: places repeated, OpenCV's Lab, cut off at 0 and 1, 8 bits.

    :param frame: (1, H, W, 3) in 0..1; ``chroma`` (1, 2, h, w).
    :returns: (1, H, W, 3), multiples of 1/255.
    """
    lightness = opencv_rgb_to_lab(frame)[..., :1]
    enlarged = F.interpolate(chroma, tuple(frame.shape[1:3]), mode="nearest").movedim(1, -1)
    return to_uint8(opencv_lab_to_rgb(torch.cat([lightness, enlarged], -1))).float() / 255


def _check_mask(mask: Tensor, image: Tensor) -> None:
    if mask.ndim != 3:
        raise ValueError(f"mask: found shape {tuple(mask.shape)}, expected (B, H, W); use a MASK.")
    check_masks(mask, len(image))
