"""What an edit model does to a picture besides coloring it: where its pixels go, and what becomes of their tones.

Pure functions with their own random numbers. Places are (x, y) in pixels of the original's frame; a pixel's center
lies at its number plus one half. A :class:`Drift` says which place of the original each place of the edit shows; the
way back, which place of the edit shows a given pixel of the original, is what a registration has to find.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from comfyui_exemplar.color import fitted_rgb, resize, rgb_to_lab, to_uint8

#: Waves of a smooth warp and their lengths in pixels: an edit model bends, it does not tear.
WAVES, WAVELENGTHS = 4, (200.0, 500.0)
#: Steps of the way back; each at least halves what is left, for the drifts here.
_STEPS, _NEAR = 60, 1e-4


@dataclass(frozen=True)
class Drift:
    """Where an edit's pixels come from. The neutral values move nothing.

    :param zoom: how much larger things are in the edit, about its middle; 1.05 is 5 % larger.
    :param shift: (x, y) pixels that things move to the right and downward.
    :param turn: degrees that things turn clockwise.
    :param tilt: (x, y), the share of the sides that the right and lower borders move against the middle (perspective).
    :param warp: the furthest that the smooth warp moves anything, pixels.
    :param seed: of the warp.
    """

    zoom: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    turn: float = 0.0
    tilt: tuple[float, float] = (0.0, 0.0)
    warp: float = 0.0
    seed: int = 0
    _waves: tuple = field(default=(), init=False, repr=False)

    def __post_init__(self) -> None:
        if self.warp:
            object.__setattr__(self, "_waves", _waves(self.seed))

    @property
    def still(self) -> bool:
        """Whether nothing moves."""
        return (self.zoom, self.shift, self.turn, self.tilt, self.warp) == (1.0, (0.0, 0.0), 0.0, (0.0, 0.0), 0.0)

    def shown(self, places: Tensor, size: tuple[int, int]) -> Tensor:
        """Which places of the original are seen at places of the edit.

        :param places: (..., 2), x and y in the edit before it is resampled, pixels.
        :param size: (height, width) of the original.
        :returns: (..., 2) in the original.
        """
        if self.still:
            return places
        extent = torch.tensor([size[1], size[0]], dtype=places.dtype)
        offset = places - extent / 2 - torch.tensor(self.shift, dtype=places.dtype)
        angle = np.deg2rad(self.turn)
        back = torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], dtype=places.dtype)
        offset = offset @ back / self.zoom
        # half a side from the middle, a division by 1 + d moves by about d times that half
        lean = torch.tensor(self.tilt, dtype=places.dtype) * 4 / extent
        offset = offset / (1 + offset @ lean)[..., None]
        found = offset + extent / 2
        return found + self.warp * _bend(places, self._waves) if self.warp else found

    def place_of(self, places: Tensor, size: tuple[int, int]) -> Tensor:
        """Which places of the edit show places of the original: the other way round, by fixed-point iteration."""
        found = places.clone()
        for _ in range(_STEPS):
            step = places - self.shown(found, size)
            found = found + step
            if float(step.abs().max()) < _NEAR:
                break
        return found


def grid(size: tuple[int, int], dtype: torch.dtype = torch.float64) -> Tensor:
    """(H, W, 2): x and y of every pixel's center."""
    y, x = torch.meshgrid(*(torch.arange(side, dtype=dtype) + 0.5 for side in size), indexing="ij")
    return torch.stack([x, y], -1)


def sample(picture: Tensor, places: Tensor) -> Tensor:
    """A picture at places, bicubic; beyond its border it goes on mirrored.

    :param picture: (H, W, C) in 0..1; ``places`` (h, w, 2), x and y in its pixels.
    :returns: (h, w, C) in 0..1.
    """
    height, width = picture.shape[:2]
    normal = places / torch.tensor([width, height], dtype=places.dtype) * 2 - 1
    found = F.grid_sample(
        picture.movedim(-1, 0)[None].float(),
        normal[None].float(),
        mode="bicubic",
        padding_mode="reflection",
        align_corners=False,
    )
    return found[0].movedim(0, -1).clamp(0, 1)


def resized(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """(H, W, C) -> (*size, C) in 0..1, bicubic with antialiasing."""
    return resize(picture[None], tuple(size))[0]


def blurred(picture: Tensor, sigma: float) -> Tensor:
    """(H, W, C), Gaussian, mirrored at the border."""
    from kornia.filters import gaussian_blur2d

    reach = 2 * int(np.ceil(3 * sigma)) + 1
    return gaussian_blur2d(picture.movedim(-1, 0)[None], (reach, reach), (sigma, sigma))[0].movedim(0, -1)


def toned(picture: Tensor, amount: float, random: np.random.Generator) -> Tensor:
    """Another tone curve on L, one of four kinds: darker, lighter, harder, faded. a and b stay where sRGB has them.

    :param picture: (H, W, 3) in 0..1.
    :param amount: 0 changes nothing, 1 is a gamma of 1.8, or the like.
    """
    lab = rgb_to_lab(picture[None])[0]
    level = lab[..., :1] / 100
    kind = int(random.integers(4))
    if kind < 2:
        curved = level ** (1.8 ** (amount if kind else -amount))
    elif kind == 2:
        curved = level + amount * (level * level * (3 - 2 * level) - level)
    else:
        low, high = 0.25 * amount, 1 - 0.2 * amount
        curved = low + (high - low) * level
    return fitted_rgb(torch.cat([curved * 100, lab[..., 1:]], -1)[None])[0]


def grained(gray: Tensor, amount: float, random: np.random.Generator) -> Tensor:
    """Film grain, strongest in the middle tones.

    :param gray: (H, W, 3), three equal channels in 0..1.
    :param amount: 1 is a deviation of 12 of 255 levels in the middle.
    """
    noise = blurred(torch.from_numpy(random.standard_normal((*gray.shape[:2], 1))).float(), 0.6)
    strength = 0.4 + 2.4 * gray[..., :1] * (1 - gray[..., :1])
    return (gray + noise / noise.std() * strength * (12 / 255 * amount)).clamp(0, 1)


def textured(picture: Tensor, amount: float, random: np.random.Generator) -> Tensor:
    """Fine detail that the original does not have, here more and there less; 1 is a deviation of 6 of L."""
    height, width = picture.shape[:2]
    noise = torch.from_numpy(random.standard_normal((height, width, 1))).float()
    fine = blurred(noise, 0.8) - blurred(noise, 2.5)
    where = resized(torch.from_numpy(random.random((height // 64 + 2, width // 64 + 2, 1))).float(), (height, width))
    lab = rgb_to_lab(picture[None])[0]
    lightness = (lab[..., :1] + fine / fine.std() * where * (6 * amount)).clamp(0, 100)
    return fitted_rgb(torch.cat([lightness, lab[..., 1:]], -1)[None])[0]


def softened(picture: Tensor, amount: float) -> Tensor:
    """What a VAE and a JPEG leave: a blur of up to 1.2 pixels, chroma at half size, a quality of 92 down to 55."""
    if amount == 0:
        return picture
    packed = io.BytesIO()
    soft = Image.fromarray(to_uint8(blurred(picture, 0.3 + 0.9 * amount)).numpy())
    soft.save(packed, "JPEG", quality=round(92 - 37 * amount), subsampling=2)
    return torch.from_numpy(np.asarray(Image.open(packed)).copy()).float() / 255


def _waves(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """(K, 2) turns a pixel, (K, 2) phases and (K, 2) heights, one for x and y; the furthest they get to is about 1."""
    random = np.random.default_rng(seed)
    angles = random.uniform(0, 2 * np.pi, WAVES)
    turns = 1 / random.uniform(*WAVELENGTHS, WAVES)
    directions = np.stack([np.cos(angles), np.sin(angles)], -1) * turns[:, None]
    made = [directions * 2 * np.pi, random.uniform(0, 2 * np.pi, (WAVES, 2)), random.standard_normal((WAVES, 2))]
    found = tuple(torch.from_numpy(part) for part in made)
    furthest = _bend(grid((1024 // 16, 1024 // 16)) * 16, found).norm(dim=-1).max()
    return found[0], found[1], found[2] / furthest


def _bend(places: Tensor, waves: tuple) -> Tensor:
    """(..., 2), up to about one pixel."""
    turns, phases, heights = (part.to(places) for part in waves)
    along = places @ turns.T
    return torch.stack([(torch.sin(along + phases[:, axis]) * heights[:, axis]).sum(-1) for axis in (0, 1)], -1)
