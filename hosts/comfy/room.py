"""What edits and climbs hold on a device while they run: how many bytes, whether there is room, and that it is made.

ComfyUI makes room for a model and its activations before a sampling begins. Of what an edit keeps there beside them it
knows nothing, unless it is told: every :class:`.edits.PlacedEdit` says what it ``holds``, and :func:`make_room` hands
that on.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import comfy.controlnet
import comfy.model_management
import torch

from ...attention.call import CROSS, SELF
from ...attention.capture import Capture
from ...attention.layers import LayerInfo
from .model import EDITS, KEY, attention_layers

if TYPE_CHECKING:
    from .edits import PlacedEdit

log = logging.getLogger(__name__)

#: Bytes that an edit holds at most on a MODEL's load device in a run: ``holds(model, shape of the latents)``.
Holds = Callable[[Any, Sequence[int]], int]

#: Share of the free memory that features may take which are kept on the device as a whole.
SHARE = 0.25

#: Tokens of a prompt of usual length.
_WORDS = 77


class _Held(comfy.controlnet.ControlBase):
    """Bytes as ComfyUI is told of them: a control without a model, which needs so much memory.

    Unlike more pictures in the latents' shape, it counts the same for one row and for both of guidance, and a node that
    limits pictures (context windows) leaves it as it is. It is never asked for anything else.
    """

    def __init__(self, held: int) -> None:
        super().__init__()
        self.held = held

    def inference_memory_requirements(self, dtype: torch.dtype) -> int:
        return self.held

    def deepclone_multigpu(self, load_device: torch.device, autoregister: bool = False) -> _Held:
        return self  # what is held is held on the first device


def make_room(
    executor: Any,
    model: Any,
    noise_shape: Sequence[int],
    conds: Mapping[str, Any],
    *args: Any,
    model_options: Mapping[str, Any] | None = None,
    **kw: Any,
) -> Any:
    """Around the loading of a MODEL for a sampling: room is made for what its edits hold, too.

    Its parameters have ComfyUI's names.
    """
    options = (model_options or {}).get("transformer_options", {})
    held = held_bytes(options.get(KEY, {}).get(EDITS, ()), model, noise_shape)
    if not held:
        return executor(model, noise_shape, conds, *args, model_options=model_options, **kw)
    asked = {**conds, KEY: [{"control": _Held(held)}]}
    loaded, prompts, models = executor(model, noise_shape, asked, *args, model_options=model_options, **kw)
    return loaded, {name: entries for name, entries in prompts.items() if name != KEY}, models


def held_bytes(placed: Iterable[PlacedEdit], model: Any, shape: Sequence[int]) -> int:
    """What edits hold at most, all together, in bytes.

    :param shape: of the latents, (B, C, h, w).
    """
    return sum(one.holds(model, shape) for one in placed if one.holds is not None)


def held_by(edit: Any) -> Holds | None:
    """What an edit holds by its own account: it ``holds(device)``; None where it gives none."""
    holds = getattr(edit, "holds", None)
    return None if holds is None else lambda model, _: holds(model.load_device)


def room_for_features(model: Any, shape: Sequence[int]) -> int:
    """Bytes of features that a device may keep while a MODEL works on it.

    They are a part of what is free once all of its weights and the activations of two rows a picture are there.

    :param shape: of the latents, (B, C, h, w).
    """
    free = comfy.model_management.get_free_memory(model.load_device)
    weights = model.model_size() - model.loaded_size()
    activations = model.memory_required([2 * shape[0], *shape[1:]])
    return max(0, int((free - weights - activations) * SHARE))


def place_features(model: Any, capture: Capture, shape: Sequence[int], levels: int) -> int:
    """Decide where a climb keeps features whose users left that open: on the device, else in main memory.

    :param shape: of the latents, (B, C, h, w).
    :param levels: at which they are kept.
    :returns: bytes that are on the device at most, until the climb ends.
    """
    if comfy.model_management.is_device_cpu(model.load_device):
        return 0
    infos, dtype = attention_layers(model), model.model.get_dtype_inference()
    here = elsewhere = 0
    for target in capture.targets:
        pictures = shape[0] if target.pictures is None else len(target.pictures)
        size = pictures * torch.empty((), dtype=target.spec.dtype or dtype).element_size()
        needed = size * sum(
            tokens_of(info, shape) * info.channels * len(target.spec.keep.get(info.layer, "")) for info in infos
        )
        if target.spec.device is None:
            here += needed
        elif target.spec.device != model.load_device:
            elsewhere += needed
    if here:
        rest = comfy.model_management.intermediate_device()
        room = room_for_features(model, shape)
        if rest != model.load_device and here * levels > room:
            log.info(
                "Attention features go to main memory a level at a time: they are %d MB, and there is room for %d.",
                here * levels >> 20,
                room >> 20,
            )
            _send_to(capture, rest)
            here, elsewhere = 0, elsewhere + here
    return here * levels + elsewhere


def _send_to(capture: Capture, device: torch.device) -> None:
    """Have a capture's targets keep on a device what they were to keep wherever it is made."""
    capture.targets = tuple(
        replace(target, spec=replace(target.spec, device=device)) if target.spec.device is None else target
        for target in capture.targets
    )


def tokens_of(info: LayerInfo, shape: Sequence[int]) -> int:
    """Tokens of a layer, for latents (..., h, w): every halving rounds up."""
    return math.prod(-(-side // info.downscale) for side in shape[-2:])


def queries_and_keys(
    rows: float, kinds: Collection[str] = (SELF, CROSS), chosen: Callable[[LayerInfo, int], bool] = lambda *_: True
) -> Holds:
    """Queries and keys of a MODEL's layers, for edits that keep them.

    :param rows: of them, for every picture.
    :param kinds: of attention; the keys of cross-attention are those of a prompt of usual length.
    :param chosen: whether a layer with so many tokens is one of them, as far as self-attention goes.
    """

    def holds(model: Any, shape: Sequence[int]) -> int:
        number = 0
        for info in attention_layers(model):
            tokens = tokens_of(info, shape)
            if SELF in kinds and chosen(info, tokens):
                number += 2 * tokens * info.channels
            if CROSS in kinds:
                number += (tokens + _WORDS) * info.channels
        element = torch.empty((), dtype=model.model.get_dtype_inference()).element_size()
        return int(rows * shape[0]) * number * element

    return holds
