"""What a search for pivots can choose (VCT, arXiv 2307.14352, section 3.3); ``diffusion.pivot`` searches."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from ..diffusion.learning import GradientSettings
from ..diffusion.pivot import LEAST_GUIDANCE, PivotOptions
from ..settings import setting


@dataclass(frozen=True)
class PivotSettings(GradientSettings):
    """Everything that a user of pivot inversion can choose."""

    search: PivotOptions = field(default_factory=PivotOptions)
    variant: Literal["official", "economical"] = setting(
        "official",
        "official repeats the released program: the update behind a loss that ends a step is kept, and the latent "
        "always advances under guidance 7.5. economical looks first: a step whose loss is low enough costs no backward "
        "pass and no further prediction, and the latent advances under your cfg.",
        advanced=True,
    )

    @property
    def options(self) -> PivotOptions:
        """The search in its variant."""
        return self.search if self.variant == "official" else economical(self.search)


def economical(options: PivotOptions) -> PivotOptions:
    """The search that looks at a loss before it updates, and advances under the guidance that it searches under."""
    return replace(options, advance_cfg=None, keep_last_update=False)


def economical_pivots(cfg: float, iterations: int) -> PivotOptions | None:
    """Pivots that hold a picture at a guidance weight, by the economical variant; None where none are needed."""
    if not iterations or cfg < LEAST_GUIDANCE:
        return None
    return economical(PivotOptions(cfg=cfg, iterations=iterations))
