"""Which row of a model call is whose: which branch of guidance, and which picture.

``cond_or_uncond`` is not enough. It counts places in the list that a guider handed to ComfyUI's sampler functions, and
guiders hand over other lists: a call for the negative prompt alone says 0 (SelfAttentionGuidance, DualModelGuider), and
DualCFGGuider's 0 is the negative. What is sure is the identity (``uuid``) that every prompt has from the moment a
guider takes it, and which of the guider's lists it stands in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...attention.call import CONDITIONAL, UNCONDITIONAL, UNKNOWN, batch_layout
from .model import KEY, PART

#: A prompt's identity -> the branches it serves.
Branches = Mapping[Any, frozenset[int]]


@dataclass(frozen=True)
class Part:
    """Some pictures of a batch, which are sampled without the others.

    :param pictures: their places in it; ``of`` is how many there are in all.
    """

    pictures: tuple[int, ...]
    of: int


@dataclass(frozen=True)
class Prediction:
    """What is asked of a MODEL at one level of a run.

    :param number: in the run, from 1.
    :param branches: of every prompt of the guider; empty where they can't be read, then ``cond_or_uncond`` counts.
    :param pictures: in the latent batch.
    :param size: (height, width) of the latents.
    :param windowed: the sampler splits the batch into windows whose pictures can't be told.
    :param partial: it asks for some of its pictures only, and does not say for which.
    :param ranks: of every prompt, its place in the guider's list; empty where that does not matter.
    :param twins: prompts that are one and the same on both sides of guidance, so that their rows hold the same numbers.
    :param places: the branch of each list that ComfyUI is asked for in one go, () where it does not say. They speak for
        calls whose prompts another node took away.
    """

    number: int
    branches: Branches
    pictures: int
    size: tuple[int, int]
    windowed: bool = False
    ranks: Mapping[Any, int] = field(default_factory=dict)
    places: tuple[int, ...] = ()
    partial: bool = False
    twins: frozenset[Any] = frozenset()


@dataclass(frozen=True)
class Rows:
    """The rows of one call of the UNet.

    :param branches: of each row; ``UNKNOWN`` for a prompt that the guider does not have.
    :param pictures: of each row, its place in the latent batch.
    :param whole: they are whole pictures, not areas of them.
    :param prediction: its number, 0 where there is none.
    :param ranks: of each row's prompt among those of its branch; empty where they can't be told.
    :param told: which pictures these are is known; else they are numbered as they come.
    """

    branches: tuple[int, ...]
    pictures: tuple[int, ...]
    whole: bool = True
    prediction: int = 0
    ranks: tuple[int, ...] = ()
    told: bool = True


def branches_of(prompts: Mapping[int, Iterable[Mapping[str, Any]] | None]) -> Branches:
    """Branch -> its prompts, as a guider has them, turned around."""
    found: dict[Any, frozenset[int]] = {}
    for branch, entries in prompts.items():
        for entry in entries or ():
            if "uuid" in entry:
                found[entry["uuid"]] = found.get(entry["uuid"], frozenset()) | {branch}
    return found


def guider_branches(guider: Any) -> Branches:
    """The branches of a guider's prompts: ``positive`` is conditional, everything else is held against it.

    So DualCFGGuider's middle prompt and PerpNegGuider's empty one are not edited. Without a ``positive`` an only list
    is conditional, and of several nobody knows what they are to each other.
    """
    lists: Mapping[str, Any] = getattr(guider, "conds", None) or {}
    if "positive" not in lists:
        meant = CONDITIONAL if len(lists) == 1 else UNKNOWN
        return branches_of({meant: [entry for entries in lists.values() for entry in entries or ()]})
    others = [entry for name, entries in lists.items() if name != "positive" for entry in entries or ()]
    return branches_of({CONDITIONAL: lists["positive"], UNCONDITIONAL: others})


def guider_ranks(guider: Any) -> dict[Any, int]:
    """The place of every prompt in its list of a guider."""
    lists: Mapping[str, Any] = getattr(guider, "conds", None) or {}
    return {entry.get("uuid"): i for entries in lists.values() for i, entry in enumerate(entries or ())}


def guider_twins(guider: Any) -> frozenset[Any]:
    """The prompts of a guider, where they are a single one that stands on both of its sides: the very same objects.

    Only of guiders that hand their prompts on as they are, ComfyUI's own and the pack's.
    """
    if not type(guider).__module__.startswith(("comfy.", __package__ or "")):
        return frozenset()
    lists = list((getattr(guider, "conds", None) or {}).values())
    if len(lists) != 2 or any(len(entries or ()) != 1 for entries in lists):
        return frozenset()
    (one,), (other,) = lists
    made = {"uuid", "model_conds"}  # for each side anew
    if one.keys() != other.keys() or not all(_is_same(one[name], other[name]) for name in one.keys() - made):
        return frozenset()
    return frozenset({one.get("uuid"), other.get("uuid")})


def _is_same(one: Any, other: Any) -> bool:
    return one is other or (isinstance(one, (int, float, str)) and one == other)


def list_places(branches: Branches, lists: Iterable[Iterable[Mapping[str, Any]] | None]) -> tuple[int, ...]:
    """The branch of each list of prompts that is asked for in one go.

    Without any known prompts a list alone may be anything, while two or more stand in ComfyUI's order.
    """
    asked = list(lists)
    if not branches:
        return (UNKNOWN,) if len(asked) == 1 else tuple(range(len(asked)))
    places = []
    for number, entries in enumerate(asked):
        found = {_branch(branches, entry.get("uuid"), number) for entry in entries or ()}
        places.append(found.pop() if len(found) == 1 else UNKNOWN)
    return tuple(places)


def rows_of(options: Mapping[str, Any], prediction: Prediction | None, rows: int, size: tuple[int, int]) -> Rows | None:
    """The rows of a call of the UNet.

    :param options: its transformer options.
    :param rows: of its batch; ``size`` is (height, width) of its latents.
    :returns: None where the batch is not what the sampler made: another node splits or joins it.
    """
    numbers = options.get("cond_or_uncond", [CONDITIONAL])
    if not numbers or rows % len(numbers):
        return None
    branches, pictures = batch_layout(numbers, rows)
    if prediction is None:
        return Rows(branches, pictures)
    each = rows // len(numbers)
    shown = _pictures(options, prediction, each)
    if shown is None:
        return None
    uuids = options.get("uuids", ())
    ranks: tuple[int, ...] = ()
    if prediction.branches and len(uuids) == len(numbers):
        ranks = tuple(prediction.ranks.get(uuid, 0) for uuid in uuids for _ in range(each))
        chunks = [_branch(prediction.branches, uuid, number) for uuid, number in zip(uuids, numbers, strict=True)]
        branches = tuple(branch for branch in chunks for _ in range(each))
    elif prediction.places:
        known = dict(enumerate(prediction.places))
        branches = tuple(known.get(branch, UNKNOWN) for branch in branches)
    whole = size == prediction.size
    return Rows(branches, shown * len(numbers), whole, prediction.number, ranks, not prediction.partial)


def _branch(branches: Branches, uuid: Any, number: int) -> int:
    """A prompt's branch. One that serves several is the one that the sampler numbers."""
    serves = branches.get(uuid)
    if serves is None:
        return UNKNOWN
    return number if number in serves else min(serves)


def _pictures(options: Mapping[str, Any], prediction: Prediction, each: int) -> tuple[int, ...] | None:
    """The pictures of every chunk of a batch; None where they can't be told."""
    window = options.get("context_window")
    if window is None:
        part: Part | None = options.get(KEY, {}).get(PART)
        shown = tuple(range(each)) if part is None else part.pictures
        return shown if each == prediction.pictures == len(shown) else None
    if prediction.windowed or getattr(window, "dim", None) != 0:
        return None
    anchor = getattr(window, "causal_anchor_index", None)
    shown = tuple(window.index_list)
    if anchor is not None and anchor >= 0:
        shown = (anchor, *shown)
    return shown if len(shown) == each else None
