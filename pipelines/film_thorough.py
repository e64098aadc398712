"""Key frames by the thorough method: one frame of a shot colored by exemplar colorization."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from ..diffusion.schedule import inversion_plan
from .exemplar import colorize
from .exemplar_inversion import Inverter, ReferencePair, color_layers
from .exemplar_references import References, inverted
from .exemplar_settings import ColorizeSettings
from .host import Host


@dataclass
class ThoroughKeys:
    """Colors gray pictures by references (``film.FilmColors.thorough``). Lifetime: one film.

    References are inverted once, by themselves: in one batch with the first picture, that one's last bits would depend
    on whether others came before it, and a film that goes on would not be the film that was not interrupted.
    """

    host: Host
    references: References
    settings: ColorizeSettings
    _pair: ReferencePair | None = None

    def __post_init__(self) -> None:
        self.references.check_settings(self.settings)
        self.settings = replace(self.settings, batch=1)

    def __call__(self, gray: Tensor) -> Tensor:
        """(1, H, W, 3) -> the same in color."""
        if self._pair is None:
            settings, host = self.settings, self.host
            plan = inversion_plan(host.sigma_table, settings.steps, settings.depth, settings.convention)
            inverter = Inverter(host, plan, color_layers(host.layers, settings.attention.layers), settings)
            self._pair = inverted(inverter, self.references)
        return colorize(self.host, gray, self.references, self.settings, prepared=self._pair).images
