"""Rendered clips with known color: things that move, turn and hide each other before a camera that pans and zooms, in
changing light, with grain, in shots of different scenes.

Every thing is drawn once, as a sprite, and placed by an affine map; so any frame can be had by its number alone, each
costs milliseconds, and it is known where every pixel of a frame is in another one. One seed is one clip.

Development is separate from evaluation twice: what is tuned uses ``Stock.load(folder, "dev")`` (things of the
development split, photographs that training has seen) and seeds of :data:`DEVELOPMENT`; the numbers that are told come
from the "test" stock and :data:`EVALUATION`. Neither the pictures nor the motion of the latter may be looked at while
anything is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from comfyui_exemplar.color import desaturate

from .clip_scenes import KINDS, Random, Scene, Stock, make_scene

#: Seeds for choosing settings, and those of the numbers that are told.
DEVELOPMENT, EVALUATION = range(1000), range(22_000, 22_100)
#: Shots of a clip, at most, and frames that each has at least.
SHOTS, SHORTEST = 3, 12
#: Side of the world that a scene fills, in picture widths at zoom 1.
_WORLD = 2.3


@dataclass(frozen=True)
class ClipFrame:
    """A frame of a clip, (H, W, 3) in 0..1.

    :param clean: true colors without grain, in 8 bits.
    :param color: with grain, as a film in color would be.
    :param gray: what is to be colored: 8-bit ITU-R 601 luma of ``color``.
    """

    number: int
    shot: int
    clean: Tensor
    color: Tensor
    gray: Tensor


class Clip:
    """A clip of up to three shots.

    :param seed: decides scenes and cuts.
    :param frames: how many; the cuts move with it, the speed of things does not.
    :param size: side in pixels.
    :param motion: another number is another rendering of the same scenes: other places, ways, camera, light and grain.
    :raises ValueError: no frames, or no size.
    """

    def __init__(self, stock: Stock, seed: int, *, frames: int = 500, size: int = 128, motion: int = 0) -> None:
        if frames < 1 or size < 16:
            raise ValueError(f"clip: found {frames} frames of {size} pixels, expected at least 1 of 16.")
        self.stock, self.seed, self.frame_count, self.size, self.motion = stock, seed, frames, size, motion
        self._grid = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5

    def again(self, motion: int = 1) -> Clip:
        """Another rendering of the same scenes."""
        made = Clip(self.stock, self.seed, frames=self.frame_count, size=self.size, motion=motion)
        made.scenes = self.scenes
        return made

    @cached_property
    def scenes(self) -> list[Scene]:
        """The shots."""
        random = np.random.default_rng((1, self.seed))
        count = max(1, min(SHOTS, self.frame_count // SHORTEST))
        share = self.frame_count / count
        inner = [round(share * (i + random.uniform(-0.12, 0.12))) for i in range(1, count)]
        cuts = [0, *inner, self.frame_count]
        first = self.seed % len(KINDS)
        return [
            make_scene(self.stock, cuts[i], cuts[i + 1], KINDS[(first + i) % len(KINDS)], random) for i in range(count)
        ]

    @cached_property
    def _moves(self) -> list[_Moves]:
        return [
            _Moves(np.random.default_rng((2, self.seed, self.motion, i)), len(scene.sprites))
            for i, scene in enumerate(self.scenes)
        ]

    def shot_of(self, number: int) -> int:
        """Which shot a frame is in. Raises ValueError if it is beyond the clip."""
        for i, scene in enumerate(self.scenes):
            if scene.start <= number < scene.stop:
                return i
        raise ValueError(f"frame: found {number}, expected 0 to {self.frame_count - 1}.")

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[ClipFrame]:
        """Frames one after another, each drawn when it is asked for."""
        for number in range(start, self.frame_count if stop is None else min(stop, self.frame_count)):
            yield self.frame(number)

    def frame(self, number: int) -> ClipFrame:
        """One frame."""
        shot = self.shot_of(number)
        picture, _ = self.drawn(number)
        moves = self._moves[shot]
        picture *= moves.light(number, self._grid)
        clean = torch.from_numpy(picture).clamp_(0, 1)
        grain = np.random.default_rng((3, self.seed, self.motion, number)).standard_normal(
            (self.size, self.size), dtype=np.float32
        )
        color = _eight_bits((clean + torch.from_numpy(moves.grain * grain)[..., None]).clamp_(0, 1))
        return ClipFrame(number, shot, _eight_bits(clean), color, desaturate(color[None], "rec601_8bit")[0])

    def reference(self, shot: int, motion: int = 1) -> Tensor:
        """(1, H, W, 3): another rendering of a shot's scene, from its middle, without grain."""
        other = self.again(motion)
        return other.frame(other.scenes[shot].middle).clean[None]

    def flow(self, number: int, other: int) -> tuple[Tensor, Tensor]:
        """Where each pixel of a frame is in another one of the same shot.

        :returns: displacement (H, W, 2), x and y in pixels; and whether it is seen there, (H, W) bool. Where two things
            mix at an edge, it is what covers most of the pixel.
        :raises ValueError: frames of different shots.
        """
        shot = self.shot_of(number)
        if self.shot_of(other) != shot:
            raise ValueError(f"flow: found frames {number} and {other} of different shots, expected those of one.")
        (_, here), (_, there) = self.drawn(number), self.drawn(other)
        before, after = self._places(shot, number), self._places(shot, other)
        moved = np.stack([b @ np.linalg.inv(a) for a, b in zip(before, after, strict=True)]).astype(np.float32)[here]
        x, y = np.meshgrid(*[np.arange(self.size, dtype=np.float32) + 0.5] * 2)
        new = moved[..., :2, 0] * x[..., None] + moved[..., :2, 1] * y[..., None] + moved[..., :2, 2]
        pixel = np.floor(new).astype(int)
        inside = ((pixel >= 0) & (pixel < self.size)).all(-1)
        at = pixel.clip(0, self.size - 1)
        seen = inside & (there[at[..., 1], at[..., 0]] == here)
        return torch.from_numpy(new - np.stack([x, y], -1)), torch.from_numpy(seen)

    def things(self, number: int) -> Tensor:
        """(H, W) int64: which thing covers most of each pixel; 0 is the ground."""
        return torch.from_numpy(self.drawn(number)[1])

    def _places(self, shot: int, number: int) -> list[np.ndarray]:
        """For the ground and each sprite, the map (3, 3) from its pixels to the picture's."""
        scene, moves = self.scenes[shot], self._moves[shot]
        camera = moves.camera(number, self.size)
        side = scene.ground.shape[0]
        ground = _shifted(-_WORLD / 2, -_WORLD / 2) @ _scaled(_WORLD / side)
        things = [moves.thing(i, number, sprite.shape[0]) for i, sprite in enumerate(scene.sprites)]
        return [camera @ ground, *(camera @ each for each in things)]

    def drawn(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """A frame (H, W, 3) without light and grain, and what covers most of each pixel, (H, W)."""
        shot = self.shot_of(number)
        ground, *places = self._places(shot, number)
        picture = _placed(self._levels[shot][0], ground, self.size, border=True)
        on_top = np.zeros((self.size, self.size), dtype=np.int64)
        for i, (levels, place) in enumerate(zip(self._levels[shot][1:], places, strict=True), 1):
            sprite = _placed(levels, place, self.size)
            alpha = sprite[..., 3:]
            picture *= 1 - alpha
            picture += sprite[..., :3]
            on_top[alpha[..., 0] > 0.5] = i
        return picture, on_top

    @cached_property
    def _levels(self) -> list[list[list[np.ndarray]]]:
        """Of every shot, ground and sprites at their size, halved, and so on, so that none is sampled too coarsely."""
        return [[_halved(each) for each in (scene.ground, *scene.sprites)] for scene in self.scenes]


class _Moves:
    """How the things, the camera and the light of one shot go; times are in frames."""

    def __init__(self, random: Random, things: int) -> None:
        self.center = random.uniform(-0.42, 0.42, (things, 2))
        self.reach = random.uniform(0.06, 0.3, (things, 2))
        self.rate = 2 * math.pi / random.uniform(70, 220, (things, 2))
        self.phase = random.uniform(0, 2 * math.pi, (things, 4))
        self.side = random.uniform(0.3, 0.52, things)
        self.breath = random.uniform(0.0, 0.16, things)
        self.turn = np.radians(random.uniform(-1.6, 1.6, things)) * (random.random(things) < 0.5)
        self.sway = np.radians(random.uniform(5, 28, things))
        # one crosses the picture, leaves it and comes back
        self.reach[-1] = random.uniform(0.55, 0.75), random.uniform(0.0, 0.15)
        self.center[-1] = random.uniform(-0.1, 0.1), random.uniform(-0.3, 0.3)
        self.rate[-1, 0] = 2 * math.pi / random.uniform(110, 170)
        self.pan = random.uniform(0.04, 0.26, 2)
        self.zoom = random.uniform(0.08, 0.24)
        self.roll = math.radians(random.uniform(0, 3))
        self.pace = 2 * math.pi / random.uniform((150, 150, 130, 200), (320, 320, 300, 400))
        self.start = random.uniform(0, 2 * math.pi, 4)
        self.lit = random.uniform(0.08, 0.2), 2 * math.pi / random.uniform(60, 200), random.uniform(0, 2 * math.pi)
        self.slope = random.uniform(0.05, 0.3), 2 * math.pi / random.uniform(200, 500), random.uniform(0, 2 * math.pi)
        self.grain = random.uniform(0.008, 0.02)

    def thing(self, number: int, time: int, side: int) -> np.ndarray:
        """From a sprite's pixels to the world."""
        phase = self.phase[number]
        x, y = self.center[number] + self.reach[number] * np.sin(self.rate[number] * time + phase[:2])
        size = self.side[number] * (1 + self.breath[number] * math.sin(0.04 * time + phase[2]))
        angle = self.turn[number] * time + self.sway[number] * math.sin(0.05 * time + phase[3])
        return _shifted(x, y) @ _turned(angle) @ _scaled(size / side) @ _shifted(-side / 2, -side / 2)

    def camera(self, time: int, size: int) -> np.ndarray:
        """From the world to a picture's pixels."""
        waves = np.sin(self.pace * time + self.start)
        x, y = self.pan * waves[:2]
        zoom, roll = math.exp(self.zoom * waves[2] + 0.12), self.roll * waves[3]
        return _shifted(size / 2, size / 2) @ _scaled(size * zoom) @ _turned(roll) @ _shifted(-x, -y)

    def light(self, time: int, axis: np.ndarray) -> np.ndarray:
        """(H, W, 1): what colors are multiplied by."""
        strength, rate, phase = self.lit
        slope, turning, towards = self.slope
        angle = turning * time + towards
        across = slope * (math.cos(angle) * axis[None, :] + math.sin(angle) * axis[:, None])
        return (1 + strength * math.sin(rate * time + phase) + across)[..., None].astype(np.float32)


def _placed(levels: list[np.ndarray], place: np.ndarray, size: int, *, border: bool = False) -> np.ndarray:
    """A texture (s, s, c) through a map from its pixels to the picture's, as (size, size, c)."""
    import cv2

    scale = math.sqrt(abs(np.linalg.det(place[:2, :2])))
    level = min(len(levels) - 1, max(0, math.floor(math.log2(1 / scale) + 0.5)))
    texture = levels[level]
    # OpenCV's pixels have their centers at whole numbers, ours at halves
    matrix = _shifted(-0.5, -0.5) @ place @ _scaled(2**level) @ _shifted(0.5, 0.5)
    mode: Any = cv2.BORDER_REFLECT_101 if border else cv2.BORDER_CONSTANT
    return cv2.warpAffine(texture, matrix[:2], (size, size), flags=cv2.INTER_LINEAR, borderMode=mode)


def _halved(texture: np.ndarray) -> list[np.ndarray]:
    import cv2

    found = [np.ascontiguousarray(texture, dtype=np.float32)]
    while found[-1].shape[0] % 2 == 0 and found[-1].shape[0] > 16:
        side = found[-1].shape[0] // 2
        found.append(cv2.resize(found[-1], (side, side), interpolation=cv2.INTER_AREA))
    return found


def _eight_bits(picture: Tensor) -> Tensor:
    return picture.mul(255).round().div(255)


def _shifted(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], dtype=np.float64)


def _scaled(factor: float) -> np.ndarray:
    return np.diag([factor, factor, 1.0])


def _turned(angle: float) -> np.ndarray:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
