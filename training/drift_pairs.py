"""Pairs of a gray original and its colored copy that has drifted in a known way, of held-out pictures.

Every kind of drift alone, in steps from little to much, and all of them mixed. The same seed gives the same pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from comfyui_exemplar.color import desaturate, fitted_rgb, rgb_to_lab

from .canvases import FRAMES, Canvas, Photographs, Vectors
from .drift import Drift, grained, grid, resized, sample, softened, textured, toned

#: The most of each kind.
ZOOM, SHIFT, TURN, TILT, WARP = 0.05, 32.0, 2.0, 0.02, 8.0
#: The least part of each side that a crop leaves, and the smallest size of an edit of lower resolution.
CROP, SMALLEST = 0.6, 0.25
#: How soft every copy is at least (drift.softened), since every edit went through a VAE.
SOFT = 0.25
MARGIN = 96
#: What each kind does besides coloring; "pattern" zooms and shifts one thing drawn again and again, "mixed" does most
#: of it at once.
KINDS = (
    "none",
    "zoom",
    "shift",
    "zoom and shift",
    "turn",
    "perspective",
    "warp",
    "tone",
    "resampled",
    "low resolution",
    "soft",
    "texture",
    "grain",
    "recolored",
    "redrawn",
    "crop",
    "pattern",
    "mixed",
)
#: Kinds in which things go elsewhere, as edit models move them. A crop and a pattern, which no edit model makes of a
#: picture, are measured too, each for itself.
DRIFTING = ("zoom", "shift", "zoom and shift", "turn", "perspective", "warp", "mixed")
#: Kinds in which no pixel goes elsewhere.
STILL = ("none", "tone", "resampled", "low resolution", "soft", "texture", "grain", "recolored")
A_KIND, MIXED, SEED = 12, 36, 20


@dataclass(frozen=True)
class DriftPair:
    """``original`` (1, H, W, 3) gray, ``truth`` (1, H, W, 3) its right colors, ``edited`` (1, h, w, 3) the drifted copy
    and ``undrifted`` (1, h, w, 3) the same copy with every pixel in its place.

    ``places`` (H, W, 2): where in the edit each pixel of the original is seen, as shares of its width and height; not
    within 0..1 where it is not seen. ``redrawn`` (H, W) bool: where the edit shows something else. ``amount`` is how
    much of its kind, 0 to 1.
    """

    kind: str
    amount: float
    name: str
    original: Tensor
    truth: Tensor
    edited: Tensor
    undrifted: Tensor
    places: Tensor
    redrawn: Tensor

    @property
    def seen(self) -> Tensor:
        """(H, W) bool: which pixels of the original the edit shows."""
        return ((self.places > 0) & (self.places < 1)).all(-1)

    @property
    def displacement(self) -> Tensor:
        """(H, W, 2): how far each pixel has gone, in pixels of the original, right and down, the edit being stretched
        to the original's size."""
        size = self.original.shape[1:3]
        here = grid(tuple(size), self.places.dtype)
        return self.places * torch.tensor([size[1], size[0]], dtype=self.places.dtype) - here


@dataclass(frozen=True)
class Changes:
    """What is done to a pair besides that softness; neutral values change nothing, 1 is the most of it."""

    drift: Drift = Drift()
    crop: tuple[float, float] = (1.0, 1.0)
    tone: float = 0.0
    soft: float = 0.0
    texture: float = 0.0
    grain: float = 0.0
    resampled: bool = False
    scale: float = 1.0
    recolored: bool = False
    redrawn: bool = False


def changes(kind: str, amount: float, random: np.random.Generator) -> Changes:
    """What a kind does."""
    way = 1 if random.random() < 0.5 else -1
    angle = random.uniform(0, 2 * np.pi)
    heading = np.array([np.cos(angle), np.sin(angle)]) / max(abs(np.cos(angle)), abs(np.sin(angle)))
    zoom = 1 + way * ZOOM * amount
    shift = (float(heading[0] * SHIFT * amount), float(heading[1] * SHIFT * amount))
    seed = int(random.integers(2**31))
    alone = {
        "none": Changes(),
        "zoom": Changes(Drift(zoom=zoom)),
        "shift": Changes(Drift(shift=shift)),
        "zoom and shift": Changes(Drift(zoom=zoom, shift=shift)),
        "pattern": Changes(Drift(zoom=zoom, shift=shift)),
        "turn": Changes(Drift(turn=way * TURN * amount)),
        "perspective": Changes(Drift(tilt=(float(heading[0] * TILT * amount), float(heading[1] * TILT * amount)))),
        "warp": Changes(Drift(warp=WARP * amount, seed=seed)),
        "tone": Changes(tone=amount),
        "resampled": Changes(resampled=True, scale=0.75 + 0.75 * amount),
        "low resolution": Changes(scale=1 - (1 - SMALLEST) * amount),
        "soft": Changes(soft=amount),
        "texture": Changes(texture=amount),
        "grain": Changes(grain=amount),
        "recolored": Changes(recolored=True),
        "redrawn": Changes(redrawn=True),
        "crop": Changes(crop=tuple(1 - (1 - CROP) * amount * random.uniform(0.5, 1, 2))),
    }
    if kind in alone:
        return alone[kind]
    redrawn = random.random() < 0.5
    drift = Drift(
        1 + way * random.uniform(0, ZOOM),
        tuple(random.uniform(-SHIFT, SHIFT, 2).tolist()),
        random.uniform(-0.5, 0.5) * TURN,
        tuple((random.uniform(-0.25, 0.25, 2) * TILT).tolist()),
        random.uniform(0, WARP),
        seed,
    )
    tone, soft, texture, grain = random.random(4)
    return Changes(
        drift,
        tone=tone,
        soft=soft,
        texture=texture / 2,
        grain=grain,
        resampled=True,
        scale=random.uniform(0.75, 1.5),
        recolored=not redrawn,
        redrawn=redrawn,
    )


class Pairs:
    """Pairs by number: the same number always gives the same pair.

    :param packages: folder of the fetched packages.
    :param split: "dev" to choose settings with, "test" for the numbers.
    """

    def __init__(self, packages: Path, split: str, seed: int = SEED) -> None:
        self.photographs, self.vectors, self.seed = Photographs(packages, split), Vectors(packages, split), seed

    def make(self, kind: str, at: int, count: int) -> DriftPair:
        """The one numbered ``at`` of ``count`` of a kind, from little to much; photographs and drawings by turns."""
        random = np.random.default_rng((self.seed, KINDS.index(kind), at))
        frame = FRAMES[int(random.integers(len(FRAMES)))]
        if kind == "pattern":
            canvas = self.vectors.pattern(frame, MARGIN, random)
        elif at % 2:
            canvas = self.vectors.canvas(frame, MARGIN, random, self.photographs)
        else:
            canvas = self.photographs.canvas(frame, MARGIN, random, single=at % 4 == 2)
        amount = min(1.0, (at // 2 + 1) / max(1, count // 2))
        return pair(canvas, kind, amount, changes(kind, amount, random), random)


def pair(canvas: Canvas, kind: str, amount: float, done: Changes, random: np.random.Generator) -> DriftPair:
    """A pair made of a canvas."""
    size, margin = canvas.size, canvas.margin
    gray = desaturate(_shown(canvas.picture, margin)[None], "rec601_8bit")[0]
    copy, colors, redrawn = canvas.picture, canvas.picture, torch.zeros(size, dtype=torch.bool)
    if done.recolored:
        copy = colors = recolored(copy, canvas.spot(random), random)
    if done.redrawn:
        changed, where = canvas.changed(random)
        copy, redrawn = changed, _shown(where[..., None], margin)[..., 0]
    chroma = rgb_to_lab(_shown(colors, margin)[None])[..., 1:]
    if done.tone:
        copy = toned(copy, done.tone, random)
    if done.texture:
        copy = textured(copy, done.texture, random)
    if done.grain:
        gray = grained(gray, done.grain, random)
    # the part of the frame that a crop leaves, and the size that it is resampled to
    kept = [max(1, round(side * share)) for side, share in zip(size, done.crop, strict=True)]
    start = torch.tensor([random.integers(side - part + 1) for side, part in zip(size, kept, strict=True)][::-1])
    whole, cut = (_final_size(each, done) for each in (size, kept))
    drifted = sample(copy, done.drift.shown(grid(tuple(kept)) + start, size) + margin)
    edited, undrifted = (
        softened(resized(each, out), max(done.soft, SOFT)).clamp(0, 1)[None]
        for each, out in ((drifted, cut), (_shown(copy, margin), whole))
    )
    places = done.drift.place_of(grid(size), size)
    places = (places - start) / torch.tensor([kept[1], kept[0]], dtype=torch.float64)
    truth = fitted_rgb(torch.cat([rgb_to_lab(gray[None])[..., :1], chroma], -1))
    return DriftPair(kind, amount, canvas.name, gray[None], truth, edited, undrifted, places.float(), redrawn)


def recolored(picture: Tensor, spot: Tensor, random: np.random.Generator) -> Tensor:
    """Another hue where a spot is, and slightly another lightness, as another color has."""
    angle = random.uniform(np.pi / 3, 5 * np.pi / 3)
    turn = torch.tensor([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]], dtype=torch.float32)
    lab = rgb_to_lab(picture[None])[0]
    lightness = lab[..., :1] * random.uniform(0.85, 1.1)
    other = torch.cat([lightness.clamp_max(100), lab[..., 1:] @ turn], -1)
    return fitted_rgb(torch.lerp(lab, other, spot[..., None])[None])[0]


def _shown(picture: Tensor, margin: int) -> Tensor:
    return picture[margin : picture.shape[0] - margin, margin : picture.shape[1] - margin]


def _final_size(size: tuple[int, int] | list[int], done: Changes) -> tuple[int, int]:
    scaled = [side * done.scale for side in size]
    if done.resampled:
        return (max(32, 32 * round(scaled[0] / 32)), max(32, 32 * round(scaled[1] / 32)))
    return (max(1, round(scaled[0])), max(1, round(scaled[1])))
