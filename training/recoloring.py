"""Colors of drawings: other ones for them, and the words for those that they have."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

COLOR_WORDS = {
    "red": (0.85, 0.1, 0.1),
    "orange": (0.95, 0.5, 0.1),
    "yellow": (0.98, 0.85, 0.2),
    "green": (0.25, 0.65, 0.2),
    "cyan": (0.2, 0.75, 0.8),
    "blue": (0.15, 0.35, 0.85),
    "purple": (0.55, 0.25, 0.75),
    "pink": (0.95, 0.5, 0.65),
    "brown": (0.5, 0.3, 0.15),
    "black": (0.1, 0.1, 0.1),
    "gray": (0.55, 0.55, 0.55),
    "white": (0.95, 0.95, 0.95),
}


def each(flags: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(np.asarray(flags)).to(like.device)[:, None, None, None]


def recolor(pictures: Tensor, random: np.random.Generator, repeat: int = 1) -> Tensor:
    """A permutation of the color channels or a turn of the hue, one for every ``repeat`` pictures in a row."""
    matrices = []
    for _ in range(len(pictures) // repeat):
        if random.random() < 0.5:
            matrix = np.eye(3)[random.permutation(3)]
        else:
            angle, axis = random.uniform(0, 2 * math.pi), 1 / math.sqrt(3)
            cross = np.array([[0, -axis, axis], [axis, 0, -axis], [-axis, axis, 0]])
            matrix = np.eye(3) * math.cos(angle) + (1 - math.cos(angle)) / 3 + math.sin(angle) * cross
        matrices.extend([matrix] * repeat)
    stacked = torch.from_numpy(np.stack(matrices)).float().to(pictures.device)
    return torch.einsum("nij,njhw->nihw", stacked, pictures).clamp(0, 1)


def dyed(pictures: Tensor, random: np.random.Generator) -> Tensor:
    """Half recolored (:func:`recolor`), half dyed with one hue: their lightness stays, their chroma becomes that of one
    of COLOR_WORDS' hues, so that every hue is met on every thing."""
    luma = torch.tensor((0.299, 0.587, 0.114)).to(pictures)
    gray = torch.einsum("c,nchw->nhw", luma, pictures)[:, None]
    words = [np.array(rgb) for word, rgb in COLOR_WORDS.items() if word not in ("black", "gray", "white")]
    picked = torch.from_numpy(np.stack([words[i] for i in random.choice(len(words), len(pictures))])).to(pictures)
    tint = picked / (picked @ luma)[:, None]  # of lightness 1
    # chroma fades toward black and white, where there is none
    depth = (4 * gray * (1 - gray)).clamp(0, 1)
    dyed = (gray + (tint[:, :, None, None] - 1) * gray * depth.sqrt()).clamp(0, 1)
    return torch.where(each(random.random(len(pictures)) < 0.5, pictures), dyed, recolor(pictures, random))


def mean_colors(pictures: np.ndarray) -> np.ndarray:
    """Red-green and blue-yellow of every drawing, averaged over what is not transparent, 0..255: (n, 2)."""
    found = []
    for start in range(0, len(pictures), 256):
        part = pictures[start : start + 256, ::4, ::4].astype(np.float32)
        alpha = part[..., 3] / 255
        red, green, blue = (part[..., c] for c in range(3))
        total = alpha.sum((1, 2)) + 1e-6
        found.append(
            np.stack(
                [((red - green) * alpha).sum((1, 2)) / total, ((blue - (red + green) / 2) * alpha).sum((1, 2)) / total],
                1,
            )
        )
    return np.concatenate(found)


def color_word(picture: Tensor, alpha: Tensor) -> str:
    """The basic color nearest to most of a drawing's pixels; picture (3, S, S) in 0..1, alpha of any size."""
    mask = F.interpolate(alpha[None, None].to(picture), size=picture.shape[-2:])[0, 0] > 0.5
    pixels = picture[:, mask].T[::7]
    if not len(pixels):
        return ""
    names = list(COLOR_WORDS)
    colors = torch.tensor([COLOR_WORDS[name] for name in names]).to(pixels)
    nearest = torch.cdist(pixels, colors).argmin(1)
    return names[int(torch.bincount(nearest, minlength=len(names)).argmax())]
