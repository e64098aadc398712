"""Noise levels compared: hosts hand sigma through their own arithmetic, so equal levels come back almost equal."""

from __future__ import annotations

from collections.abc import Sequence

#: Relative difference up to which two sigmas are one level. Neighboring training sigmas differ by 3e-3 and more.
TOLERANCE = 1e-4


def same_level(sigma: float, level: float) -> bool:
    """Whether a sigma is a level."""
    return abs(sigma - level) <= TOLERANCE * level


def same_levels(sigmas: Sequence[float], levels: Sequence[float]) -> bool:
    """Whether two lists name the same levels in the same order."""
    return len(sigmas) == len(levels) and all(map(same_level, sigmas, levels))


def level_of(sigma: float, levels: Sequence[float]) -> float | None:
    """The level that a sigma is; None where it is none of them."""
    return next((level for level in levels if same_level(sigma, level)), None)


def step_of(sigma: float, sigmas: Sequence[float]) -> int:
    """Which step of a run a sigma belongs to: the last one that begins at it or above.

    Samplers of higher order ask the model between two levels; that still is the step that they are in.

    :param sigmas: (N+1,) descending levels of the run.
    """
    begun = [i for i, level in enumerate(sigmas[:-1]) if level >= sigma * (1 - TOLERANCE)]
    return begun[-1] if begun else 0
