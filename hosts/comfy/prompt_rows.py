"""Prompts of a batch of pictures: whether each has its own, and the prompts of some of the pictures.

ComfyUI hands the rows of a prompt, of its mask and of a ControlNet's picture to the pictures of a batch in turn, and
starts over where there are fewer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import comfy.controlnet
from torch import Tensor

#: Of an entry's options, tensors that are handed out in turn. Others have one row, or one for each picture.
_IN_TURN = ("pooled_output", "mask", "exemplar_gray_features")


def is_shared(conditioning: list) -> bool:
    """Whether all pictures of a batch have the same prompts: nothing in them has a row for each."""
    return all(count == 1 for count in _counts(conditioning)) and _foreign_control(conditioning) is None


def rows_in_turn(conditioning: list, *, hints: bool = True) -> Iterator[int]:
    """How many rows the prompts, their pooled texts and masks, and the pictures of ControlNets have.

    :param hints: the ControlNets' too, of which ComfyUI takes any number.
    """
    for context, extras in conditioning:
        yield len(context)
        yield from (count for key in _IN_TURN for count in _rows(extras.get(key)))
    if hints:
        for control in _chain(conditioning):
            yield from _rows(getattr(control, "cond_hint_original", None))


def why_together(conditioning: list, pictures: int) -> str | None:
    """Why the pictures of a batch can't be worked on some at a time; None where they can."""
    foreign = _foreign_control(conditioning)
    if foreign is not None:
        return f"a {foreign} on the prompt may treat every picture in another way"
    for _, extras in conditioning:
        for key, value in extras.items():
            counts = set(_rows(value))
            if key == "control" or (key in _IN_TURN and isinstance(value, Tensor)):
                continue
            if counts - {1} and not (isinstance(value, Tensor) and counts == {pictures}):
                return f"what the prompt says under '{key}' can't be told apart by pictures"
    return None


def for_part(conditioning: list, part: slice, pictures: int) -> list:
    """The prompts of some of the pictures; those of all where they are shared.

    :param pictures: of the whole batch, of which :func:`why_together` says nothing.
    """
    if is_shared(conditioning):
        return conditioning
    chosen = range(pictures)[part]
    return [[_taken(context, chosen), _options(extras, chosen)] for context, extras in conditioning]


def _options(extras: Mapping[str, Any], chosen: range) -> dict[str, Any]:
    made = {key: _taken(value, chosen) if isinstance(value, Tensor) else value for key, value in extras.items()}
    if "control" in made:
        made["control"] = _control(made["control"], chosen)
    return made


def _taken(tensor: Tensor, chosen: range) -> Tensor:
    """Rows for some pictures, (len(chosen), ...); a single row serves all."""
    if not tensor.ndim or len(tensor) == 1:
        return tensor
    return tensor[[picture % len(tensor) for picture in chosen]]


def _control(control: Any, chosen: range) -> Any:
    """A ControlNet, and those before it, that follow some of their pictures."""
    if control is None:
        return None
    made = control.copy()
    if isinstance(made.cond_hint_original, Tensor):
        made.cond_hint_original = _taken(made.cond_hint_original, chosen)
    made.extra_concat_orig = [_taken(extra, chosen) for extra in made.extra_concat_orig]
    made.set_previous_controlnet(_control(control.previous_controlnet, chosen))
    return made


def _chain(conditioning: list) -> Iterator[Any]:
    """All ControlNets of some prompts."""
    for _, extras in conditioning:
        control = extras.get("control")
        while control is not None:
            yield control
            control = getattr(control, "previous_controlnet", None)


def _foreign_control(conditioning: list) -> str | None:
    """The class of a ControlNet that is not ComfyUI's own, None where there is none."""
    kinds = (type(control) for control in _chain(conditioning))
    return next((kind.__name__ for kind in kinds if kind.__module__ != comfy.controlnet.__name__), None)


def _counts(conditioning: list) -> Iterator[int]:
    """How many rows everything in some prompts has."""
    yield from rows_in_turn(conditioning)
    yield from (
        count for _, extras in conditioning for key in extras.keys() - {"control"} for count in _rows(extras[key])
    )
    yield from (count for control in _chain(conditioning) for count in _rows(getattr(control, "extra_concat_orig", ())))


def _rows(value: Any) -> Iterator[int]:
    if isinstance(value, Tensor):
        yield len(value) if value.ndim else 1
    elif isinstance(value, Mapping):
        yield from _rows(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _rows(each)
