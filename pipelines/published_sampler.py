"""The samplers of the published programs: what can be chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..settings import Settings, setting


@dataclass(frozen=True)
class PublishedSamplerSettings(Settings):
    """A published program's sampler and the number of its steps."""

    sampler_name: Literal["ddim", "euler_ancestral"] = setting(
        "ddim",
        "ddim: deterministic, DEADiff's default and L-CAD's; ends at the smallest trained noise level. "
        "euler_ancestral: adds new noise in every step, DEADiff's other one; set timesteps of Apply DEADiff to "
        "fractional with it.",
    )
    steps: int = setting(
        50,
        "Low is quick and coarse, high slow and fine; DEADiff's program allows 10 to 50. With ddim, a number that does "
        "not divide 1000 gives more steps than asked for, as in the published programs: 30 gives 31.",
        low=1,
        high=999,
    )
