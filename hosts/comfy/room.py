"""What edits and climbs hold on a device while they run: how many bytes, whether there is room, and that it is made.

ComfyUI makes room for a model and its activations before a sampling begins. Of what an edit keeps there beside them it
knows nothing, unless it is told: every :class:`.edits.PlacedEdit` says what it ``holds``, and :func:`make_room` hands
that on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import comfy.controlnet
import comfy.model_management
import torch

from ...attention.call import CROSS, SELF
from ...attention.capture import SHARE, Capture
from ...attention.layers import LayerInfo
from .memory import resting_place
from .model import EDITS, KEY, attention_layers

if TYPE_CHECKING:
    from .edits import PlacedEdit

#: Bytes that an edit holds at most on a MODEL's load device in a run: ``holds(model, shape of the latents)``.
Holds = Callable[[Any, Sequence[int]], int]

#: Tokens of a prompt of usual length.
_WORDS = 77


class _Reserved(comfy.controlnet.ControlBase):
    """Bytes as ComfyUI is told of them: a control without a model, which needs so much memory.

    Unlike more pictures in the latents' shape, it counts the same for one row and for both of guidance, and a node that
    limits pictures (context windows) leaves it as it is. It is never asked for anything else.
    """

    def __init__(self, held: int) -> None:
        super().__init__()
        self.held = held

    def inference_memory_requirements(self, dtype: torch.dtype) -> int:
        return self.held

    def deepclone_multigpu(self, load_device: torch.device, autoregister: bool = False) -> _Reserved:
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
    asked = {**conds, KEY: [{"control": _Reserved(held)}]}
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
    :returns: bytes that are on the device at most, until the climb ends; 0 on a CPU.
    """
    load, rest = model.load_device, resting_place()
    if comfy.model_management.is_device_cpu(load):
        return 0
    # under --gpu-only there is nowhere else
    room = sys.maxsize if rest == load else room_for_features(model, shape)
    return capture.fit(attention_layers(model), shape, model.model.get_dtype_inference(), levels, room, rest)


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
            tokens = info.tokens(shape)
            if SELF in kinds and chosen(info, tokens):
                number += 2 * tokens * info.channels
            if CROSS in kinds:
                number += (tokens + _WORDS) * info.channels
        return int(rows * shape[0]) * number * model.model.get_dtype_inference().itemsize

    return holds
