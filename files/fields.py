"""What the fields of a file's JSON may hold: described once, and judged by the same check as every setting.

A description is a mapping from names to :class:`Field`, made in JSON's own words (:func:`integer`, :func:`string`,
:func:`array` ...); :func:`check_fields` gives back what is described of a JSON object, and refuses what does not fit by
its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..settings import About, Entry, shown
from .plain_json import short


@dataclass(frozen=True)
class Field:
    """One field.

    :param entry: judges a value.
    :param optional: whether it may be missing; nothing is given back then.
    :param null: whether null is as good as missing.
    :param alone: whether it may be one value.
    :param listed: of how many values a list may be, the fewest and the most; None where none may stand.
    """

    entry: Entry
    optional: bool = False
    null: bool = False
    alone: bool = True
    listed: tuple[int, int] | None = None

    def check(self, value: Any, called: str) -> Any:
        """The value, lists as tuples.

        :raises ValueError: it is none that the field may have.
        """
        if self.listed is not None and isinstance(value, (list, tuple)):
            fewest, most = self.listed
            if not fewest <= len(value) <= most:
                raise ValueError(f"{called} has {len(value)} values; expected {fewest} to {most}.")
            return tuple(self.entry.check(each, f"{called}[{i}]") for i, each in enumerate(value))
        if not self.alone:
            raise ValueError(f"{called} is {shown(value)}; expected a list.")
        return self.entry.check(value, called)


#: A description of an object.
Fields = Mapping[str, Field]


def integer(low: int, high: int) -> Field:
    """A whole number."""
    return _field(int, low, high)


def number(low: float, high: float) -> Field:
    """A number."""
    return _field(float, low, high)


def boolean() -> Field:
    """On or off."""
    return _field(bool)


def string(*options: str) -> Field:
    """One of some words, or any text where none are named."""
    return Field(Entry("", str, options, None, About("")))


def optional(field: Field, *, null: bool = False) -> Field:
    """The same, which may be missing.

    :param null: whether null is as good as missing.
    """
    return replace(field, optional=True, null=null)


def array(field: Field, fewest: int, most: int, *, alone: bool = False) -> Field:
    """A list of such values.

    :param alone: whether one value may stand for all.
    """
    return replace(field, alone=alone, listed=(fewest, most))


def _field(kind: type, low: float | None = None, high: float | None = None) -> Field:
    return Field(Entry("", kind, (), None, About("", low=low, high=high)))


def check_fields(content: Any, fields: Fields, called: str, advice: str) -> dict[str, Any]:
    """What is described of a JSON object; anything else in it is passed over.

    :param called: what messages call the object: file and place in it.
    :param advice: what to do about a wrong one, as a sentence.
    :raises ValueError: it is no object, a field is missing, or holds what it may not.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"{called} is {shown(content)}; expected an object. {advice}")
    found = {}
    for name, field in fields.items():
        if (name not in content and field.optional) or (name in content and content[name] is None and field.null):
            continue
        if name not in content:
            raise ValueError(f"{called} has no {short(name)}. {advice}")
        try:
            found[name] = field.check(content[name], f"{called}: {name}")
        except ValueError as error:
            raise ValueError(f"{error} {advice}") from error
    return found
