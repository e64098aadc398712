"""A UNet as a source of features: its decoder's self-attention at one small noise level, in one forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor

from ..attention.capture import Capture, CaptureSpec, CaptureTarget
from ..attention.layers import LayerInfo, is_shallow, select_layers
from ..color import resize
from ..color.sizes import size_of, working_size
from ..memory.features import Features, FeatureSource, Space
from .host import Host
from .memory_settings import FeatureSettings


@dataclass(frozen=True)
class UNetFeatures:
    """What a host's UNet gives of pictures (see ``memory.features.FeatureSource``).

    :param settings: which layers, at which noise level and resolution.
    :raises ValueError: layers that the model does not have, or a timestep that it does not.
    """

    host: Host
    settings: FeatureSettings

    def __post_init__(self) -> None:
        if self.settings.timestep >= len(self.host.sigma_table):
            raise ValueError(
                f"timestep is {self.settings.timestep}; it must be below {len(self.host.sigma_table)}, the number of "
                "this model's training timesteps."
            )
        _ = self._layers

    @property
    def fingerprint(self) -> str:
        """Identifies the weights."""
        return self.host.fingerprint

    @cached_property
    def _layers(self) -> tuple[LayerInfo, ...]:
        return select_layers(self.settings.layers, self.host.layers)

    @cached_property
    def _level(self) -> float:
        return float(self.host.sigma_table[self.settings.timestep])

    @property
    def spaces(self) -> tuple[Space, ...]:
        """One a layer, in network order."""
        return tuple(
            Space(info.layer.name, self._level, info.channels, info.heads, is_shallow(info, self.host.layers))
            for info in self._layers
        )

    def features(self, pictures: Tensor) -> Features:
        """(B, H, W, 3) in 0..1, without color -> features, in one model call.

        :raises ValueError: the model was not asked as it should have been; says why that happens.
        """
        settings, host = self.settings, self.host
        size = working_size(*size_of(pictures), settings.resolution, host.size_multiple, host.factor)
        target = CaptureTarget(CaptureSpec({info.layer: "qk" for info in self._layers}))
        capture = Capture([target], [self._level])
        host.read(host.encode(resize(pictures, size)), self._level, capture)
        capture.check(len(pictures))
        bank = target.bank
        level = bank.sigmas[0]
        queries, keys = (tuple(bank.get(level, info.layer, p) for info in self._layers) for p in "qk")
        return Features(self.fingerprint, self.spaces, queries, keys, tuple(bank.grid(i.layer) for i in self._layers))


if TYPE_CHECKING:  # the protocol, checked
    _: type[FeatureSource] = UNetFeatures
