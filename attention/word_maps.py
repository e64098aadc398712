"""Local blend (arXiv 2208.01626, section 3.2): where in the picture chosen words look, as a mask.

Outside the mask the target's latent is the source's. The published program averages the words' cross-attention maps
over the layers at a quarter of the latent's size and over the steps so far, dilates by one token, and keeps what is
above a threshold of the largest value; the mask is what the source's words or the target's words cover.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .layers import Layer, LayerInfo
from .rows import taken

#: Layers at this downscale of the latent show words best: 16 x 16 tokens for 512 pixels.
DOWNSCALE = 4


@dataclass(frozen=True)
class BlendWords:
    """Which words make the mask.

    :param source: columns of the source's words; ``target`` of the target's.
    :param threshold: 0..1, share of the largest value from which a place belongs to the words; low covers more.
    :param start: share of the run after which the blend begins.
    """

    source: tuple[int, ...]
    target: tuple[int, ...]
    threshold: float = 0.3
    start: float = 0.2

    def __post_init__(self) -> None:
        if not self.source and not self.target:
            raise ValueError("A local blend needs at least one word of the source or the target prompt.")
        for name in ("threshold", "start"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1.")

    def begins(self, steps: int) -> int:
        """First step of the blend: int(start · N)."""
        return int(self.start * steps)


def blend_layers(infos: Iterable[LayerInfo]) -> frozenset[Layer]:
    """Encoder and decoder layers at a quarter of the latent's size, or the coarsest where there are none."""
    outer = [info for info in infos if info.layer.block != "middle"]
    scales = {info.downscale for info in outer}
    scale = DOWNSCALE if DOWNSCALE in scales else max(scales, default=0)
    return frozenset(info.layer for info in outer if info.downscale == scale)


class WordMaps:
    """Sums of the chosen words' maps over layers.

    Lifetime: one prediction, owned by its ``attention.control.ControlledAttention``, which fills and clears it; or one
    run, owned by ``pipelines.vct_pair.ControlledRun``, which adds every prediction's and goes away with the run.

    :param layers: whose maps are gathered.
    """

    def __init__(self, words: BlendWords, layers: Iterable[Layer]) -> None:
        self.words, self.layers = words, frozenset(layers)
        self._sums: dict[int, tuple[Tensor, Tensor]] = {}

    def add(self, grid: tuple[int, int], pictures: Sequence[int], source: Tensor, target: Tensor) -> None:
        """Add one layer's maps, (rows, heads, N, columns), unedited; ``pictures`` names each row's picture."""
        for row, picture in enumerate(pictures):
            # layers of one downscale have one grid
            of_source = _of_words(source[row], self.words.source, grid)
            self._add(picture, of_source, _of_words(target[row], self.words.target, grid))

    def add_all(self, other: WordMaps) -> None:
        """Add what another one gathered."""
        for picture, maps in other._sums.items():
            self._add(picture, *maps)

    def _add(self, picture: int, source: Tensor, target: Tensor) -> None:
        """Add a picture's maps, (h, w) each."""
        if picture in self._sums:
            source, target = self._sums[picture][0] + source, self._sums[picture][1] + target
        self._sums[picture] = (source, target)

    def clear(self) -> None:
        """Let all maps go."""
        self._sums.clear()

    def mask(self, size: tuple[int, int]) -> Tensor | None:
        """(pictures, 1, height, width) of 0 and 1; None before anything was added."""
        if not self._sums:
            return None
        sums = [self._sums[picture] for picture in sorted(self._sums)]
        covered = [_above(torch.stack(maps), size, self.words.threshold) for maps in zip(*sums, strict=True)]
        return torch.maximum(*covered)


def _of_words(maps: Tensor, columns: tuple[int, ...], grid: tuple[int, int]) -> Tensor:
    """(heads, N, columns) -> (h, w): the words' columns together, the heads' mean."""
    return taken(maps, columns, -1).sum(-1).mean(0).unflatten(0, grid)


def _above(maps: Tensor, size: tuple[int, int], threshold: float) -> Tensor:
    """(B, h, w) -> (B, 1, height, width): dilated, enlarged, and compared with a share of each map's largest value."""
    grown = F.max_pool2d(maps.unsqueeze(1), 3, stride=1, padding=1)
    large = F.interpolate(grown, size=size)
    largest = large.amax((2, 3), keepdim=True)
    return ((large > threshold * largest) & (largest > 0)).to(maps)


def blend(target: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
    """The target inside the mask, the source outside: (B, C, h, w) each, the mask (1 or B, 1, h, w) or None for all."""
    return target if mask is None else torch.lerp(source, target, mask.to(target))
