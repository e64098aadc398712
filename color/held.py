"""Values that can be counted: a value is a tuple of the tensors that it holds.

A program that keeps results for later has to know what they cost. ComfyUI counts the tensors in lists and tuples,
however deep, and takes any other object for nothing. So what travels between nodes is a tuple of its tensors, beside
what it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Set
from typing import Any, TypeVar

from torch import Tensor

Own = TypeVar("Own", bound="Held")


class Held(tuple[Tensor, ...]):
    """Base of frozen dataclasses that count as the tensors in their fields.

    The tuple is made with the value and stays: what an object in a field is given later is not in it. All else is the
    dataclass's own. A value without tensors is as true as any other.
    """

    def __new__(cls: type[Own], *fields: Any, **named: Any) -> Own:
        """The value with its tensors, each once, in the order of its fields."""
        return tuple.__new__(cls, _tensors_in((fields, named), set()))

    def __bool__(self) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return not self == other  # a tuple would compare its members

    def __lt__(self, other: object) -> bool:
        return NotImplemented

    __le__ = __gt__ = __ge__ = __lt__


def is_list(value: object) -> bool:
    """Whether something is a list or a tuple of values, and not one value that is :class:`Held`."""
    return isinstance(value, (list, tuple)) and not isinstance(value, Held)


def _tensors_in(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """Tensors in something, each once.

    :param seen: what was looked at before, by ``id``.
    """
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield value
    else:
        for part in _parts(value):
            yield from _tensors_in(part, seen)


def _parts(value: Any) -> Iterator[Any]:
    """What something is made of, as far as that may hold tensors."""
    if dataclasses.is_dataclass(value):
        yield from (getattr(value, field.name, None) for field in dataclasses.fields(value))
    elif isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, (list, tuple, Set)):
        yield from value
    elif hasattr(value, "tensors"):  # a bank of features
        yield from value.tensors
