"""A source stream that is not computed anew: where it stood was kept when its picture was inverted."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .inversion import Inversion
from .levels import same_level, step_of
from .pivot import Pivots, way_back


@dataclass(frozen=True, eq=False)
class Replay:
    """A way back that was walked before.

    Between two levels a DDIM step is a straight line in sigma, so latents at any sigma and the clean estimate behind
    each step follow from the levels' latents.

    :param levels: (N+1,) descending sigmas.
    :param latents: (N+1, B, C, h, w), variance-exploding, at these levels.
    """

    levels: tuple[float, ...]
    latents: Tensor

    @classmethod
    def of_pivots(cls, pivots: Pivots) -> Replay:
        """What guided sampling with the pivots' contexts passes: exact for their guidance weight."""
        return cls(pivots.levels, pivots.trajectory)

    @classmethod
    def of_inversion(cls, inversion: Inversion) -> Replay:
        """The latents that the inversion itself passed: what a perfect reconstruction would pass.

        :raises ValueError: an inversion whose way back has other levels.
        """
        return cls(*way_back(inversion))

    @property
    def pictures(self) -> int:
        """Number of pictures."""
        return self.latents.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the latents."""
        height, width = self.latents.shape[-2:]
        return height, width

    def at(self, sigma: float) -> Tensor:
        """(B, C, h, w): where the stream stands at a sigma."""
        i = step_of(sigma, self.levels)
        sigma_from, sigma_to = self.levels[i], self.levels[i + 1]
        if same_level(sigma, sigma_from):
            return self.latents[i]
        return self.latents[i].lerp(self.latents[i + 1], (sigma - sigma_from) / (sigma_to - sigma_from))

    def denoised(self, sigma: float) -> Tensor:
        """(B, C, h, w): the clean estimate that makes the step of this sigma."""
        i = step_of(sigma, self.levels)
        sigma_from, sigma_to = self.levels[i], self.levels[i + 1]
        return self.latents[i] - sigma_from * (self.latents[i + 1] - self.latents[i]) / (sigma_to - sigma_from)
