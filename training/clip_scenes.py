"""What rendered clips show: scenes of drawings and photographs, a ground and sprites that lie on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from comfyui_exemplar.color import lab_to_rgb, rgb_to_lab

#: Pixels of a sprite's side, and of a ground's.
SPRITE, GROUND = 128, 340
_DRAWINGS, _PHOTOGRAPH, _MIXED = "drawings", "photograph", "drawings on a photograph"

Kind = Literal["drawings", "photograph", "drawings on a photograph"]
KINDS: tuple[Kind, ...] = (_DRAWINGS, _PHOTOGRAPH, _MIXED)
Random = np.random.Generator


@dataclass(frozen=True)
class Stock:
    """What scenes are made of.

    :param drawings: (n, s, s, 4) uint8, straight alpha.
    :param photograph: gives another square photograph, (S, S, 3) float32 in 0..1, S at least 256.
    """

    drawings: np.ndarray
    photograph: Callable[[Random], np.ndarray]

    @classmethod
    def load(cls, folder: Path, split: str) -> Stock:
        """The drawings of "dev" or "test" that have colors, and photographs: for "test" those that training has not
        seen. Raises FileNotFoundError if ``prepare`` has not been run.

        :param folder: of the training, with what ``prepare`` leaves there.
        """
        from .canvases import Photographs
        from .drawings import Drawings, shows_people

        found = Drawings.load(folder / "drawings.npz")
        rows = [
            row
            for name, rows in found.rows_by_name(split).items()
            if not shows_people(name)
            for row in rows
            if _chroma(found.pictures[row]) > _COLORED
        ]
        photographs = Photographs(folder / "packages", split)
        return cls(found.pictures[rows], lambda random: photographs.cut((GROUND, GROUND), random)[0].numpy())

    @classmethod
    def demo(cls) -> Stock:
        """What comes with the pack: pieces of the example pictures. For tests and for measuring speed."""
        from comfyui_exemplar.demo import model_path

        folder = model_path().parent / "pictures"
        photograph, drawing = (_opened(folder / name) for name in ("photo-reference.jpg", "drawing-reference.png"))
        random = np.random.default_rng(7)
        pieces = [_piece(_square(drawing if i % 2 else photograph, random), random) for i in range(16)]
        drawings = np.stack([(_straight(piece) * 255).round().astype(np.uint8) for piece in pieces])
        return cls(drawings, lambda random: _square(photograph, random))


@dataclass(frozen=True)
class Scene:
    """A shot: ``ground`` (G, G, 3) and ``sprites`` (s, s, 4) float32, premultiplied, of which later ones hide earlier
    ones; frames from ``start`` to before ``stop``."""

    start: int
    stop: int
    kind: Kind
    ground: np.ndarray
    sprites: list[np.ndarray]

    @property
    def middle(self) -> int:
        return (self.start + self.stop - 1) // 2

    def __len__(self) -> int:
        return self.stop - self.start


def make_scene(stock: Stock, start: int, stop: int, kind: Kind, random: Random) -> Scene:
    ground = _graded(random) if kind == _DRAWINGS else stock.photograph(random).astype(np.float32)
    count = int(random.integers(4, 7))
    if kind == _PHOTOGRAPH:
        sprites = [_piece(stock.photograph(random), random) for _ in range(count)]
    else:
        rows = random.choice(len(stock.drawings), min(count, len(stock.drawings)), replace=False)
        sprites = [_premultiplied(stock.drawings[row]) for row in rows]
    return Scene(start, stop, kind, ground, sprites)


def _graded(random: Random) -> np.ndarray:
    """A ground of a few large areas of color, and a fine pattern in lightness by which places can be told apart."""
    import cv2

    corners = random.uniform((45, -28, -28), (92, 28, 28), (3, 3, 3)).astype(np.float32)
    lab = cv2.resize(corners, (GROUND, GROUND), interpolation=cv2.INTER_CUBIC)
    for cells, strength in ((9, 5.0), (40, 3.0), (120, 2.0)):
        noise = random.standard_normal((cells, cells)).astype(np.float32)
        lab[..., 0] += strength * cv2.resize(noise, (GROUND, GROUND), interpolation=cv2.INTER_CUBIC)
    return lab_to_rgb(torch.from_numpy(lab)[None])[0].clamp(0, 1).numpy()


def _piece(photograph: np.ndarray, random: Random) -> np.ndarray:
    """A piece of a photograph with an uneven round border, (SPRITE, SPRITE, 4) premultiplied."""
    import cv2

    side = photograph.shape[0]
    width = int(side * random.uniform(0.4, 0.75))
    x, y = random.integers(side - width + 1, size=2)
    piece = cv2.resize(photograph[y : y + width, x : x + width], (SPRITE, SPRITE), interpolation=cv2.INTER_AREA)
    down, right = np.mgrid[0:SPRITE, 0:SPRITE] - (SPRITE - 1) / 2
    angle = np.arctan2(down, right)
    rim = 0.76 + sum(0.07 * np.cos(k * angle + random.uniform(0, 6.3)) for k in (2, 3, 5))
    alpha = ((rim * SPRITE / 2 - np.hypot(down, right)) / 2 + 0.5).clip(0, 1)[..., None].astype(np.float32)
    return np.concatenate([piece * alpha, alpha], -1).astype(np.float32)


def _premultiplied(drawing: np.ndarray) -> np.ndarray:
    straight = drawing.astype(np.float32) / 255
    return np.concatenate([straight[..., :3] * straight[..., 3:], straight[..., 3:]], -1)


def _straight(sprite: np.ndarray) -> np.ndarray:
    return np.concatenate([sprite[..., :3] / sprite[..., 3:].clip(1e-3), sprite[..., 3:]], -1).clip(0, 1)


#: Mean chroma, CIE Lab, from which a drawing counts as colored.
_COLORED = 12.0


def _chroma(drawing: np.ndarray) -> float:
    opaque = drawing[drawing[..., 3] > 128][:, :3]
    if not len(opaque):
        return 0.0
    return float(rgb_to_lab(torch.from_numpy(opaque).float()[None, None] / 255)[..., 1:].norm(dim=-1).mean())


def _opened(path: Path) -> np.ndarray:
    with Image.open(path) as opened:
        return np.asarray(opened.convert("RGB")).astype(np.float32) / 255


def _square(picture: np.ndarray, random: Random) -> np.ndarray:
    """A piece as large as its shorter side allows, or nearly, (GROUND, GROUND, 3)."""
    import cv2

    height, width = picture.shape[:2]
    side = int(min(height, width) * random.uniform(0.75, 1))
    x, y = int(random.integers(width - side + 1)), int(random.integers(height - side + 1))
    piece = picture[y : y + side, x : x + side]
    return cv2.resize(piece, (GROUND, GROUND), interpolation=cv2.INTER_LINEAR)
