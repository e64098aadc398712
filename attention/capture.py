"""Attention capture: an edit that lets attention run as it is and keeps what went in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .bank import PROJECTIONS, FeatureBank
from .call import CONDITIONAL, AttentionCall
from .layers import Layer


@dataclass(frozen=True)
class CaptureSpec:
    """What a MODEL was asked to keep: which projections of which layers, in which dtype, on which device.

    :param keep: layer -> some of the letters ``qkv``.
    :param dtype: None keeps the model's own.
    :param device: None keeps them where they are made.
    """

    keep: Mapping[Layer, str]
    dtype: torch.dtype | None = None
    device: torch.device | None = None

    def __post_init__(self) -> None:
        for layer, letters in self.keep.items():
            if not letters or set(letters) - set(PROJECTIONS):
                raise ValueError(f"Layer {layer.name} is to keep '{letters}'; expected some of the letters q, k, v.")


@dataclass(frozen=True)
class CaptureTarget:
    """A bank to fill, and the pictures of the batch that belong in it (all when ``pictures`` is None)."""

    spec: CaptureSpec
    bank: FeatureBank = field(default_factory=FeatureBank)
    pictures: range | None = None


class Capture:
    """Keeps q, k, v of the conditional rows at the given sigmas.

    One batch may hold several pictures that need different things (an input its queries, a reference its values): each
    target takes its own.

    :param targets: banks to fill.
    :param sigmas: the levels worth keeping (None: all); others pass by, which saves the memory of unused ones.
    """

    def __init__(self, targets: Sequence[CaptureTarget], sigmas: Sequence[float] | None = None) -> None:
        self.targets = tuple(targets)
        self.sigmas = None if sigmas is None else tuple(sigmas)

    @property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(sorted({layer for target in self.targets for layer in target.spec.keep}))

    def __call__(self, call: AttentionCall, earlier: Callable[[AttentionCall], Tensor]) -> Tensor:
        sigma = self._level(call.sigma)
        if sigma is not None:
            conditional = call.select(call.rows_of(CONDITIONAL))
            for target in self.targets:
                self._keep(target, sigma, conditional)
        return earlier(call)

    def _level(self, sigma: float) -> float | None:
        """The exact level a call belongs to (hosts hand sigma through their own arithmetic), or None to skip it."""
        if self.sigmas is None:
            return sigma
        return next((level for level in self.sigmas if abs(level - sigma) <= 1e-4 * level), None)

    @staticmethod
    def _keep(target: CaptureTarget, sigma: float, call: AttentionCall) -> None:
        letters = target.spec.keep.get(call.layer)
        if not letters:
            return
        # a prompt of several parts runs a picture in several rows; the first one speaks for it
        first = {picture: i for i, picture in reversed(list(enumerate(call.pictures)))}
        wanted = [first[p] for p in sorted(first) if target.pictures is None or p in target.pictures]
        part = call.select(wanted)
        kept = {
            # copy: a view would keep the whole batch's projections alive
            letter: getattr(part, letter).detach().to(device=target.spec.device, dtype=target.spec.dtype, copy=True)
            for letter in letters
        }
        target.bank.put(sigma, call.layer, call.grid, **kept)
