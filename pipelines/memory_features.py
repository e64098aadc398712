"""A model as a source of features: its attention among a picture's places at one small noise level, in one pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention.capture import Capture, CaptureSpec, CaptureTarget
from ..attention.layers import LayerInfo, is_shallow, select_layers
from ..color import desaturate, luminance, resize
from ..color.batches import in_batches
from ..color.held import Held
from ..color.sizes import size_of, working_size
from ..color.tensors import is_finite
from ..memory.entries import ColorMemory
from ..memory.features import Features, FeatureSource, Space, joined_features
from .host import Host
from .memory_settings import FeatureSettings

#: Mean difference in L on the features' grid above which pictures are not those that were read.
_OTHER = 1.0


@dataclass(frozen=True)
class ModelFeatures:
    """What a host's model gives of pictures (see ``memory.features.FeatureSource``).

    :param settings: which layers, at which noise level and resolution.
    :param name: the model's, for messages.
    :raises ValueError: layers that the model does not have, or a timestep that it does not.
    """

    host: Host
    settings: FeatureSettings
    name: str = ""

    def __post_init__(self) -> None:
        known = self.host.family.timesteps(self.host.sigma_table)
        if self.settings.timestep >= known:
            raise ValueError(
                f"timestep is {self.settings.timestep}; it must be below {known}, the number of this model's training "
                "timesteps."
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
        return self.host.family.level(self.host.sigma_table, self.settings.timestep)

    @property
    def _turned(self) -> bool:
        """Whether places take part."""
        return self.host.family.rotary and self.settings.positions == "with"

    @property
    def spaces(self) -> tuple[Space, ...]:
        """One a layer, in network order."""
        return tuple(
            Space(
                info.layer.name,
                self._level,
                info.channels,
                info.heads,
                is_shallow(info, self.host.layers),
                self._turned,
            )
            for info in self._layers
        )

    def size(self, pictures: Tensor) -> tuple[int, int]:
        """(height, width) in pixels at which the model sees pictures, (B, H, W, 3)."""
        host = self.host
        return working_size(*size_of(pictures), self.settings.resolution, host.size_multiple, host.factor)

    def features(self, pictures: Tensor) -> Features:
        """(B, H, W, 3) in 0..1, without color -> features, in one model call.

        :raises ValueError: the model was not asked as it should have been; says why that happens.
        """
        return self._read(resize(pictures, self.size(pictures)))

    def together(self, *batches: Tensor) -> tuple[Features, ...]:
        """Features of several batches of pictures, each (B, H, W, 3) of a size of its own, in one model call.

        :raises ValueError: the model sees them at different sizes, or was not asked as it should have been.
        """
        (size,) = {self.size(pictures) for pictures in batches}
        found, first, parts = self._read(torch.cat([resize(pictures, size) for pictures in batches])), 0, []
        for pictures in batches:
            parts.append(found.take(slice(first, first + len(pictures))))
            first += len(pictures)
        return tuple(parts)

    def _read(self, seen: Tensor) -> Features:
        """Features of pictures, (B, H, W, 3), that have the size at which the model sees them."""
        target = CaptureTarget(CaptureSpec({info.layer: "qk" for info in self._layers}))
        capture = Capture([target], [self._level], turned=self._turned)
        self.host.read(self.host.encode(seen), self._level, capture)
        capture.check(len(seen))
        bank = target.bank
        level = bank.sigmas[0]
        queries, keys = (tuple(bank.get(level, info.layer, p) for info in self._layers) for p in "qk")
        return Features(self.fingerprint, self.spaces, queries, keys, tuple(bank.grid(i.layer) for i in self._layers))


def as_written(settings: FeatureSettings, memory: ColorMemory, host: Host) -> FeatureSettings:
    """Where to look so that a memory can be asked: its own layers, level and context.

    :param settings: whose resolution is kept; they are for a memory without entries as they are.
    """
    if memory.made is None or not memory.made.spaces:
        return settings
    spaces = memory.made.spaces
    return replace(
        settings,
        layers=", ".join(space.name for space in spaces),
        timestep=host.family.timestep(host.sigma_table, spaces[0].level),
        context=memory.made.context,
        positions="with" if spaces[0].turned else "without",
    )


class _Asks:
    """A source of features that asks another one, and says of itself what that says."""

    network: FeatureSource

    @property
    def fingerprint(self) -> str:
        """Identifies the weights."""
        return self.network.fingerprint

    @property
    def name(self) -> str:
        """The network's."""
        return self.network.name

    @property
    def spaces(self) -> tuple[Space, ...]:
        """Those of the network."""
        return self.network.spaces


@dataclass(frozen=True)
class BatchedFeatures(_Asks):
    """A source of features that is asked for as many pictures at once as memory allows.

    :param at_once: most pictures in one model call.
    :param out_of_memory: whether an error says that memory ran out.
    :param on_pictures: called with how many pictures are done.
    """

    network: FeatureSource
    at_once: int
    out_of_memory: Callable[[Exception], bool]
    on_pictures: Callable[[int], None] = lambda _: None

    def features(self, pictures: Tensor) -> Features:
        """(B, H, W, 3) in 0..1, without color -> features, where the network leaves them."""
        parts = []
        for part, made in in_batches(
            len(pictures), self.at_once, lambda part: self.network.features(pictures[part]), self.out_of_memory
        ):
            parts.append(made)
            self.on_pictures(part.stop)
        return joined_features(parts)


@dataclass
class ReadBeside(_Asks):
    """A source of features that looks at other pictures, too, in the model call in which it is asked.

    So a picture and its reference are one call of two rows. Lifetime: one coloring, whose owner takes what was kept.

    :param network: is asked.
    :param others: (B, H, W, 3) in 0..1, without color.
    :param at_once: most pictures in one model call.
    :param out_of_memory: whether an error says that memory ran out.
    :param on_pictures: called with how many are done of the pictures that are asked for.
    :ivar kept: features of the others. None where they have to be looked at by themselves: before anybody asked, and
        where all are too many at once or not seen at one size.
    """

    network: FeatureSource
    others: Tensor
    at_once: int
    out_of_memory: Callable[[Exception], bool]
    on_pictures: Callable[[int], None] = lambda _: None
    kept: Features | None = None

    def features(self, pictures: Tensor) -> Features:
        """(B, H, W, 3) in 0..1, without color -> features."""
        network = self.network
        if (
            isinstance(network, ModelFeatures)
            and len(pictures) + len(self.others) <= self.at_once
            and network.size(pictures) == network.size(self.others)
        ):
            try:
                found, self.kept = network.together(pictures, self.others)
            except Exception as error:
                if not self.out_of_memory(error):
                    raise
            else:
                self.on_pictures(len(pictures))
                return found
        return BatchedFeatures(network, self.at_once, self.out_of_memory, self.on_pictures).features(pictures)


@dataclass(frozen=True)
class PictureFeatures(Held):
    """Features that were kept, with what tells of which pictures they are.

    A source of features itself, for those pictures alone: nothing is run.

    :param kept: of B pictures.
    :param lightness: (B, h, w), CIE L of the pictures, on the features' finest grid.
    :param name: of the network, for messages.
    """

    kept: Features
    lightness: Tensor
    name: str = ""

    @classmethod
    def read(cls, network: FeatureSource, pictures: Tensor, device: torch.device | None = None) -> PictureFeatures:
        """Read pictures.

        :param pictures: (B, H, W, 3) in 0..1; only their lightness is used.
        :param device: where features are kept; None is where they are.
        """
        gray = desaturate(pictures)
        kept = network.features(gray)
        kept = kept if device is None else kept.to(device)
        return cls(kept, _on_grid(gray, kept.grid), network.name)

    @property
    def fingerprint(self) -> str:
        """Identifies the network that was asked."""
        return self.kept.fingerprint

    @property
    def spaces(self) -> tuple[Space, ...]:
        """What was asked for."""
        return self.kept.spaces

    def features(self, pictures: Tensor) -> Features:
        """(B, H, W, 3) in 0..1 -> what was kept of them, one for each or one for all.

        :raises ValueError: they are not the pictures that were read.
        """
        count, grid = len(self.lightness), self.kept.grid
        if count != len(pictures):
            raise ValueError(
                f"features: found those of {count} picture(s), expected {len(pictures)}; read these pictures."
            )
        apart = (_on_grid(desaturate(pictures), grid) - self.lightness).abs().mean((1, 2))
        if float(apart.max()) > _OTHER:
            raise ValueError(
                "features: found those of other pictures, expected those of the ones to color; connect the same "
                "picture to Color Features and here."
            )
        return self.kept

    def check(self, called: str) -> None:
        """Whether what travels as features is whole, and finite.

        :param called: what the user calls it; the message starts with it.
        :raises ValueError: it is not.
        """
        if not isinstance(self.kept, Features) or not isinstance(self.lightness, Tensor):
            raise ValueError(f"{called}: found no features in it, expected those of Color Features; connect that.")
        if tuple(self.lightness.shape) != (self.kept.pictures, *self.kept.grid):
            raise ValueError(f"{called}: found lightness of {tuple(self.lightness.shape)}, expected one a picture.")
        if not is_finite(self.lightness, *self.kept.queries, *self.kept.keys):
            raise ValueError(f"{called}: found NaN, infinite or huge values, expected finite ones; read them again.")


def _on_grid(gray: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, H, W, 3) without color -> (B, h, w), CIE L on the CPU."""
    return F.adaptive_avg_pool2d(luminance(gray.cpu().float())[:, None], grid)[:, 0]


if TYPE_CHECKING:  # the protocol, checked
    _: tuple[type[FeatureSource], ...] = (ModelFeatures, BatchedFeatures, ReadBeside, PictureFeatures)
