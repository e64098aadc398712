"""Attention capture: an edit that lets attention run as it is and keeps what went in."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from ..diffusion.levels import level_of
from ..settings import Settings, setting
from .bank import PROJECTIONS, FeatureBank, is_on
from .call import CONDITIONAL, AttentionCall
from .layers import Layer, LayerInfo

log = logging.getLogger(__name__)

#: Share of a device's free memory that features may take which are kept there as a whole.
SHARE = 0.25

#: What each role needs of a picture's attention; everything serves when in doubt.
Keep = Literal["everything (q, k, v)", "input (q, k)", "reference (k, v)", "gray reference (k)"]
_LETTERS: dict[Keep, str] = {
    "everything (q, k, v)": "qkv",
    "input (q, k)": "qk",
    "reference (k, v)": "kv",
    "gray reference (k)": "k",
}


@dataclass(frozen=True)
class StorageSettings(Settings):
    """How attention features are stored, and where."""

    precision: Literal["model", "float16", "bfloat16", "float32"] = setting(
        "model",
        "How kept attention features are stored. model keeps the model's own precision. float16 and bfloat16 halve the "
        "memory of a float32 model at no visible cost; float32 is the largest.",
        advanced=True,
    )
    keep_on: Literal["with the model", "cpu"] = setting(
        "with the model",
        "Where they are kept while pictures are inverted or colored; afterwards it is main memory. with the model is "
        "faster and takes GPU memory; cpu saves that and moves one noise level after the other. Where there is "
        "no room, that happens by itself.",
        advanced=True,
    )

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype to store in; None is the model's."""
        return None if self.precision == "model" else getattr(torch, self.precision)

    @property
    def device(self) -> torch.device | None:
        """The device to store on; None is the model's."""
        return torch.device("cpu") if self.keep_on == "cpu" else None


@dataclass(frozen=True)
class CaptureSettings(Settings):
    """What a user asks an inversion to keep."""

    layers: str = setting(
        "color",
        "Which layers to keep. Presets: color (the two finest decoder resolutions that have attention), fine and "
        "coarse (one of the two each), decoder, encoder, middle, all. Ranges: output.6-11, or output.4,7,9,11. Fewer "
        "layers take less memory; color injection must find here every layer that it uses.",
    )
    keep: Keep = setting(
        "everything (q, k, v)",
        "everything (q, k, v) works for every role. input (q, k) is enough for the gray picture, reference (k, v) for "
        "the color reference and gray reference (k) for the desaturated reference; they save up to two thirds of the "
        "memory.",
    )
    storage: StorageSettings = field(default_factory=StorageSettings)

    @property
    def letters(self) -> str:
        """The projections to keep, some of the letters ``qkv``."""
        return _LETTERS[self.keep]


@dataclass(frozen=True)
class CaptureSpec:
    """What a MODEL was asked to keep: which projections of which layers, in which dtype, on which device.

    :param keep: layer -> some of the letters ``qkv``.
    :param dtype: None keeps the model's own.
    :param device: None keeps them where they are made. Another one gets them a level at a time.
    :raises ValueError: letters that name no projection.
    """

    keep: Mapping[Layer, str]
    dtype: torch.dtype | None = None
    device: torch.device | None = None

    def __post_init__(self) -> None:
        for layer, letters in self.keep.items():
            if not letters or set(letters) - set(PROJECTIONS):
                raise ValueError(f"Layer {layer.name} is to keep '{letters}'; expected some of the letters q, k, v.")

    def level_bytes(self, layers: Iterable[LayerInfo], size: Sequence[int], dtype: torch.dtype) -> int:
        """Bytes that are kept of one picture at one level.

        :param layers: of the model; ``dtype`` is the model's own.
        :param size: of the latents, (..., h, w).
        """
        numbers = sum(len(self.keep.get(info.layer, "")) * info.tokens(size) * info.channels for info in layers)
        return numbers * (self.dtype or dtype).itemsize


@dataclass(frozen=True)
class CaptureTarget:
    """A bank to fill, and the pictures of the batch that belong in it (all when ``pictures`` is None)."""

    spec: CaptureSpec
    bank: FeatureBank = field(default_factory=FeatureBank)
    pictures: range | None = None


class Capture:
    """Keeps q, k, v of the conditional rows at some noise levels.

    One batch may hold several pictures that need different things (an input its queries, a reference its values): each
    target takes its own.

    Of a combined prompt the first part speaks for a picture, and of the calls of one prediction the first one: what
    guidance asks later (with perturbed attention, with blurred latents) is another picture's. A later prediction at the
    same level takes its place, since the refinements of a step come closer.

    What goes to another device than the call's waits on the latter until the level is over, and then goes in one go:
    the host has just waited for the new level, so this costs the transfer only. The device never has more than one
    level. The last one goes with :meth:`finish`.

    Lifetime: one inversion. Whoever inverts makes the capture and its targets, and owns the banks from then on; the
    capture is dropped with the edit when the inversion ends, or fails, and what waits with it.

    :param targets: banks to fill.
    :param sigmas: the levels worth keeping (None: all); others pass by, which saves the memory of unused ones.
    :param turned: queries and keys are kept as they are turned by place; else as they were before.
    """

    #: It changes nothing, so that what stands on a layer need not be of its kind.
    reads = True

    def __init__(
        self, targets: Sequence[CaptureTarget], sigmas: Sequence[float] | None = None, *, turned: bool = True
    ) -> None:
        self.targets, self.turned = tuple(targets), turned
        self.sigmas = None if sigmas is None else tuple(sigmas)
        self._kept: dict[tuple[float, Layer], tuple[int, int]] = {}
        # of one level, by target and layer
        self._waiting: dict[tuple[int, Layer], tuple[tuple[int, int], dict[str, Tensor]]] = {}
        self._level: float | None = None

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Layers that any target keeps, sorted."""
        return tuple(sorted({layer for target in self.targets for layer in target.spec.keep}))

    def fit(
        self,
        layers: Sequence[LayerInfo],
        shape: Sequence[int],
        dtype: torch.dtype,
        levels: int,
        room: int,
        elsewhere: torch.device,
    ) -> int:
        """Decide where features are kept whose users left that open: where they are made, if there is room for all.

        :param layers: of the model; ``dtype`` is the model's own.
        :param shape: of the latents, (B, C, h, w).
        :param levels: at which features are kept.
        :param room: bytes that they may take where they are made.
        :param elsewhere: the device that they go to, a level at a time, where that is too little.
        :returns: bytes that are where they are made at most, until the inversion ends.
        """
        stays = passes = 0
        for target in self.targets:
            pictures = shape[0] if target.pictures is None else len(target.pictures)
            needed = pictures * target.spec.level_bytes(layers, shape, dtype)
            if target.spec.device is None:
                stays += needed
            else:
                passes += needed
        if stays * levels <= room:
            return stays * levels + passes
        log.info(
            "Attention features go to %s a level at a time: they are %d MB, and there is room for %d.",
            elsewhere,
            stays * levels >> 20,
            room >> 20,
        )
        self.targets = tuple(
            replace(target, spec=replace(target.spec, device=target.spec.device or elsewhere))
            for target in self.targets
        )
        return stays + passes

    def __call__(self, call: AttentionCall, earlier: Callable[[AttentionCall], Tensor]) -> Tensor:
        """``earlier(call)``, (rows, N, heads · d), as it is."""
        level = call.sigma if self.sigmas is None else level_of(call.sigma, self.sigmas)
        if level != self._level:
            self.finish()  # before anything is kept of the new one
        if level is not None and call.whole:
            self._keep(level, call)
        return earlier(call)

    def finish(self) -> None:
        """Move what still waits to where it is kept. Hosts call it when the climb has ended."""
        if self._level is not None:
            for (number, layer), (grid, kept) in self._waiting.items():
                target = self.targets[number]
                moved = {letter: tensor.to(target.spec.device) for letter, tensor in kept.items()}
                target.bank.put(self._level, layer, grid, **moved)
            self._waiting.clear()
        self._level = None

    def _keep(self, level: float, call: AttentionCall) -> None:
        """Keep what a call's conditional rows have for the targets, if they speak for the pictures."""
        positions = call.rows_of(CONDITIONAL)
        if positions:
            conditional = call.select(positions)
            if not self.turned:
                conditional = conditional.unturned()
            if self._is_first(level, conditional):
                for number in range(len(self.targets)):
                    self._store(number, level, conditional)

    def _store(self, number: int, level: float, call: AttentionCall) -> None:
        """Keep a call's projections for one of the targets: in its bank, or on the call's device until they move."""
        target = self.targets[number]
        letters = target.spec.keep.get(call.layer)
        if not letters:
            return
        rows = _rows_for(target, call)
        device = target.spec.device
        if device is None or is_on(call.q, device):
            target.bank.put(level, call.layer, call.grid, **_copies(rows, letters, target.spec.dtype))
            return
        # what these take the place of goes first
        self._waiting.pop((number, call.layer), None)
        self._waiting[number, call.layer] = call.grid, _copies(rows, letters, target.spec.dtype)
        self._level = level

    def _is_first(self, level: float, call: AttentionCall) -> bool:
        """Whether these rows speak for the pictures at this level; from now on they have."""
        at, rank = (level, call.layer), min(call.ranks, default=0)
        prediction, kept = self._kept.get(at, (0, 0))
        if call.prediction and call.prediction == prediction and rank >= kept:
            return False
        self._kept[at] = (call.prediction, rank)
        return True

    def check(self, pictures: int) -> None:
        """Whether every target has what it was to keep: all levels, layers and pictures.

        :param pictures: in the batch that was inverted.
        :raises ValueError: something is missing; the message says what and why that happens.
        """
        for target in self.targets:
            count = pictures if target.pictures is None else len(target.pictures)
            for level in self.sigmas or target.bank.sigmas:
                for layer, letters in target.spec.keep.items():
                    _check_kept(target.bank, level, layer, letters, count)


def _check_kept(bank: FeatureBank, level: float, layer: Layer, letters: str, pictures: int) -> None:
    """:raises ValueError: a layer's projections at a level are missing, or are not the pictures'."""
    if not all(bank.has(level, layer, letter) for letter in letters):
        raise ValueError(
            f"The inversion kept nothing of {layer.name} at sigma {level:.4f}: the model was not asked there. A cache "
            "(EasyCache, LazyCache) that skips model calls does that, or a prompt that is not active at every step; "
            "take it off the MODEL that inverts, or use one plain prompt."
        )
    height, width = bank.grid(layer)
    for letter in letters:
        rows, tokens = bank.get(level, layer, letter).shape[:2]
        if rows != pictures or tokens != height * width:
            raise ValueError(
                f"The inversion kept {rows} picture(s) of {tokens} tokens of {layer.name} at sigma {level:.4f}, "
                f"expected {pictures} of {height} x {width}: another node on this MODEL splits pictures or batches. "
                "Take it off the MODEL that inverts."
            )


def _rows_for(target: CaptureTarget, call: AttentionCall) -> AttentionCall:
    """The rows of a call that belong to a target's pictures, one a picture, in their order."""
    # a prompt of several parts runs a picture in several rows; its first part speaks for it
    order = sorted(range(len(call.pictures)), key=lambda i: call.ranks[i] if call.ranks else 0)
    first = {call.pictures[i]: i for i in reversed(order)}
    return call.select([first[p] for p in sorted(first) if target.pictures is None or p in target.pictures])


def _copies(call: AttentionCall, letters: str, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Copies of a call's projections; views would keep those of the whole batch alive."""
    return {letter: getattr(call, letter).detach().to(dtype=dtype, copy=True) for letter in letters}
