"""Kept queries, keys and values: what an inversion remembers of a picture's attention."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ..color.tensors import FLOATS, check_tensor, is_finite
from ..diffusion.levels import same_levels
from .layers import Layer
from .rows import compact, taken

PROJECTIONS = ("q", "k", "v")


class FeatureBank:
    """Attention features of a batch of pictures, by sigma, layer and projection.

    Tensors are (pictures, tokens, channels), heads not split. A bank is filled by the inversion that creates it and is
    a value from then on: everything that reads it leaves it as it is.
    """

    def __init__(self) -> None:
        self._kept: dict[float, dict[Layer, dict[str, Tensor]]] = {}
        self._grids: dict[Layer, tuple[int, int]] = {}

    def put(self, sigma: float, layer: Layer, grid: tuple[int, int], **projections: Tensor) -> None:
        """Keep projections of one layer at one sigma; the latest call at a sigma is the one that stays."""
        self._kept.setdefault(sigma, {}).setdefault(layer, {}).update(projections)
        self._grids[layer] = grid

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Sigmas with kept features, highest first."""
        return tuple(sorted(self._kept, reverse=True))

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Layers with kept features, sorted."""
        return tuple(sorted(self._grids))

    @property
    def pictures(self) -> int:
        """How many pictures the bank describes (0 when it is empty)."""
        return next((t.shape[0] for _, _, _, t in self.items()), 0)

    @property
    def nbytes(self) -> int:
        """Bytes of all kept tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def device(self) -> torch.device | None:
        """Where all kept tensors are; None for an empty bank, and for one on several devices."""
        found = {tensor.device for tensor in self.tensors}
        return found.pop() if len(found) == 1 else None

    @property
    def tensors(self) -> Iterator[Tensor]:
        """All kept tensors."""
        return (tensor for _, _, _, tensor in self.items())

    def items(self) -> Iterator[tuple[float, Layer, str, Tensor]]:
        """(sigma, layer, projection, tensor) of everything kept."""
        for sigma, layers in self._kept.items():
            for layer, kept in layers.items():
                for name, tensor in kept.items():
                    yield sigma, layer, name, tensor

    def grid(self, layer: Layer) -> tuple[int, int]:
        """(height, width) of a layer's tokens."""
        return self._grids[layer]

    def nearest(self, sigma: float) -> float:
        """The kept sigma that is nearest on a logarithmic scale.

        :raises LookupError: the bank is empty.
        """
        if not self._kept:
            raise LookupError("This bank kept no features.")
        return nearest_level(self._kept, sigma)

    @property
    def levels(self) -> tuple[float, ...]:
        """Sigmas with kept features, in the order in which they came; of two equally near ones the first is nearest."""
        return tuple(self._kept)

    def has(self, sigma: float, layer: Layer, projection: str) -> bool:
        """Whether a projection was kept."""
        return projection in self._kept.get(sigma, {}).get(layer, {})

    def get(self, sigma: float, layer: Layer, projection: str) -> Tensor:
        """A kept tensor, (pictures, tokens, channels).

        :raises LookupError: it was never kept; the message says what was.
        """
        try:
            return self._kept[sigma][layer][projection]
        except KeyError:
            kept = ", ".join(f"{at.name} ({''.join(self._projections(at))})" for at in self.layers) or "nothing"
            raise LookupError(
                f"No '{projection}' of {layer.name} was kept at sigma {sigma:.4f}; this inversion kept {kept}."
            ) from None

    def _projections(self, layer: Layer) -> list[str]:
        names = {name for _, at, name, _ in self.items() if at == layer}
        return [name for name in PROJECTIONS if name in names]

    def check(self, name: str, pictures: int, sigmas: Sequence[float], widths: Mapping[Layer, int]) -> None:
        """Whether the features are of these pictures, whole, and finite. An empty bank is.

        :param name: what the user calls the inversion that kept them; messages start with it.
        :param sigmas: at which features are kept, all or none.
        :param widths: channels of the model's layers.
        :raises ValueError: they are not.
        """
        kept = list(self.items())
        if not kept:
            return
        each = {(at, letter) for _, at, letter, _ in kept}
        if not same_levels(self.sigmas, sigmas) or len(kept) != len(each) * len(sigmas):
            raise ValueError(
                f"{name}: found {len(kept)} kept features at {len(self.sigmas)} level(s), expected {len(each)} at each "
                f"of {len(sigmas)}; invert the picture again."
            )
        for _, layer, letter, tensor in kept:
            expected = (pictures, math.prod(self.grid(layer)), widths.get(layer, 0))
            said = f"{name}: its {letter} of {layer.name}"
            check_tensor(tensor, said, f"floats {expected}")
            if tuple(tensor.shape) != expected or tensor.dtype not in FLOATS:
                raise ValueError(
                    f"{said}: found {tensor.dtype} of shape {tuple(tensor.shape)}, expected floats {expected}; invert "
                    "the picture again."
                )
        if not is_finite(*(tensor for _, _, _, tensor in kept)):
            raise ValueError(
                f"{name}: found NaN, infinite or huge values in its features, expected finite ones; invert the picture "
                "again, in float32 if the MODEL runs in half precision."
            )

    def take(self, pictures: Iterable[int]) -> FeatureBank:
        """A bank of some of the pictures, in that order. Evenly spaced ones share memory with this one."""
        rows = tuple(pictures)
        return self._changed(lambda tensor: taken(tensor, rows))

    def moved(self, device: torch.device) -> FeatureBank:
        """The bank with its tensors on a device, all in one go; the bank itself where they are there already."""
        return self._changed(lambda tensor: tensor if is_on(tensor, device) else tensor.to(device))

    def only(self, keep: Mapping[Layer, str]) -> FeatureBank:
        """A bank of some projections, which share memory with this one; what was not kept is not in it either.

        :param keep: layer -> some of the letters ``qkv``.
        """
        return self._changed(lambda tensor: tensor, lambda layer, name: name in keep.get(layer, ""))

    def compact(self) -> FeatureBank:
        """The bank without what its tensors keep alive beside themselves; itself where they are no parts of others."""
        return self._changed(compact)

    def _changed(
        self, change: Callable[[Tensor], Tensor], keep: Callable[[Layer, str], bool] = lambda *_: True
    ) -> FeatureBank:
        """A bank of changed tensors, of those projections that are to be kept; itself where that is no change."""
        made, same = FeatureBank(), True
        for sigma, layer, name, tensor in self.items():
            kept = change(tensor) if keep(layer, name) else None
            if kept is not None:
                made.put(sigma, layer, self._grids[layer], **{name: kept})
            same &= kept is tensor
        return self if same else made


def nearest_level(levels: Iterable[float], sigma: float) -> float:
    """The one of some levels, at least one, that is nearest to a sigma on a logarithmic scale."""
    floor = 1e-6  # sigma 0 is a legal question: it is nearest to the smallest level
    return min(levels, key=lambda level: abs(math.log(max(level, floor) / max(sigma, floor))))


def is_on(tensor: Tensor, device: torch.device) -> bool:
    """Whether a tensor is on a device; one without a number means any of its kind."""
    return tensor.device.type == device.type and device.index in (None, tensor.device.index)


def joined_banks(banks: Sequence[FeatureBank]) -> FeatureBank:
    """One bank of all pictures of banks that kept the same of each, in their order; a single one is returned itself."""
    if len(banks) == 1:
        return banks[0]
    joined = FeatureBank()
    for sigma, layer, name, _ in banks[0].items():
        rows = torch.cat([bank.get(sigma, layer, name) for bank in banks])
        joined.put(sigma, layer, banks[0].grid(layer), **{name: rows})
    return joined


def pick_rows(tensor: Tensor, pictures: tuple[int, ...]) -> Tensor:
    """Rows of a kept tensor for the pictures of a call.

    One kept picture serves all; otherwise picture i takes row i, and a latent batch that repeats the kept pictures
    (ComfyUI's Repeat Latent Batch) starts over.

    :param tensor: (kept pictures, tokens, channels).
    :returns: (len(pictures), tokens, channels), a view of the kept tensor where that is possible.
    """
    count = tensor.shape[0]
    if count == 1:
        return tensor.expand(len(pictures), -1, -1)
    rows = [picture % count for picture in pictures]
    if rows == list(range(count)):
        return tensor
    return taken(tensor, rows)
