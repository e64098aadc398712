"""Settings: dataclass fields that carry their bounds, their help and the published value.

A setting stands once. Its widget (``nodes.widgets``), its command-line option (``cli.options``), its row on the help
page and its entry in the English locale (``texts``) are made from the field:

    @dataclass(frozen=True)
    class AutoColorSettings(Settings):
        resolution: int = setting(512, "Side of the square. Low ... High ...", low=0, high=4096, auto=True)
        shape: Literal["aspect", "square"] = setting("aspect", "...", advanced=True)

What a model recommends stands in its file's header, under the same names. A setting whose best value depends on the
model is ``auto``: left alone it takes the model's recommendation, or the field's default, which is then the paper's.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

#: Where an input's options in ``/object_info`` say what it was called; ``web/js/renaming.js`` has it as well.
RENAMED_FROM = "exemplar_renamed_from"

#: What an ``auto`` widget holds until the user sets it. Every negative number means the same: no such setting has one.
AUTO = -1
#: What a tooltip says of it.
AUTO_HELP = "A negative number is auto: the model's own recommendation, else the published value."

_KEY = "exemplar.setting"
_SAME = object()

Own = TypeVar("Own", bound="Settings")


@dataclass(frozen=True)
class About:
    """What is known of a setting beside its type and its default.

    :param help: what it does, and what low and high values do: tooltip, ``--help`` and help page in one.
    :param low: smallest value; None where there is none. ``high`` likewise.
    :param step: of the widget's arrows.
    :param round: to what the widget rounds; False for not at all.
    :param advanced: whether the widget is hidden at first.
    :param auto: whether the best value depends on the model.
    :param published: the published program's value, where the default is another one.
    :param widget: the widget's id, where it is not the field's name, or was not what the field was called ``formerly``.
    :param recommended_as: the name in a model's recommendation, where it is not the field's.
    :param formerly: what it was called before it was renamed, if it was. Workflows, prompts, options and files'
        recommendations that still say so are understood.
    :param multiline: of a text.
    :param later: added when workflows without it were around already: its widget stands behind all others, and may be
        missing. Such fields keep their order among each other.
    """

    help: str
    low: float | None = None
    high: float | None = None
    step: float | None = None
    round: float | Literal[False] | None = None
    advanced: bool = False
    auto: bool = False
    published: Any = None
    widget: str | None = None
    recommended_as: str | None = None
    formerly: str | None = None
    multiline: bool = False
    later: bool = False


def setting(default: Any, help: str, *, published: Any = _SAME, **about: Any) -> Any:
    """A field of a :class:`Settings` class; keywords are :class:`About`'s."""
    known = About(help, published=None if published is _SAME else published, **about)
    if known.auto and (known.low is None or known.low < 0):
        raise TypeError("An auto setting needs a lower bound of 0 or more: negative numbers stand for auto.")
    return dataclasses.field(default=default, metadata={_KEY: known})


def share(default: float, help: str, **about: Any) -> Any:
    """A setting between 0 and 1."""
    return setting(default, help, **{"low": 0.0, "high": 1.0, "step": 0.05, "round": 0.001, **about})


@dataclass(frozen=True)
class Entry:
    """One setting of a class, nested ones included.

    :param name: the field's name.
    :param kind: ``int``, ``float``, ``bool`` or ``str``.
    :param options: the words that a ``Literal`` allows; () for others.
    :param path: fields of nested settings that lead to it, () for the class's own.
    """

    name: str
    kind: type
    options: tuple[str, ...]
    default: Any
    about: About
    path: tuple[str, ...] = ()

    @property
    def widget(self) -> str:
        """Id of the widget."""
        return self.about.widget or self.name

    @property
    def recommended_as(self) -> str:
        """Name in a model's recommendation."""
        return self.about.recommended_as or self.name

    def left_alone(self, value: Any) -> bool:
        """Whether a value says that nothing was chosen."""
        if value is None:
            return True
        number = _number(value) if self.about.auto else None
        return number is not None and -math.inf < number < 0

    def check(self, value: Any, called: str = "") -> Any:
        """A value as the setting has it: of its type, within its bounds.

        :param called: what the message calls the setting, where that is not its name.
        :returns: the value; whole numbers that came as 2.0 are whole.
        :raises ValueError: it is none that the setting can have; the message says what was found and what is expected.
        """
        called = called or self.name
        if self.options:
            if not isinstance(value, str) or value not in self.options:
                raise ValueError(f"{called} is {shown(value)}; expected one of {', '.join(self.options)}.")
            return value
        if self.kind in (int, float):
            return self._number(value, called)
        if not isinstance(value, self.kind):
            expected = "on or off" if self.kind is bool else "a text"
            raise ValueError(f"{called} is {shown(value)}; expected {expected}.")
        return value

    def _number(self, value: Any, called: str) -> int | float:
        number, low, high = _number(value), self.about.low, self.about.high
        if number is None:
            raise ValueError(f"{called} is {shown(value)}; expected a number.")
        if not math.isfinite(number) or (self.kind is int and number != int(number)):
            raise ValueError(
                f"{called} is {shown(value)}; expected a {'whole' if self.kind is int else 'finite'} number."
            )
        if not (low is None or number >= low) or not (high is None or number <= high):
            raise ValueError(f"{called} is {shown(value)}; {_range(low, high)}.")
        return value if type(value) in (int, self.kind) else self.kind(value)


def _number(value: Any) -> int | float | None:
    """A value as a number, None for what is none: digits in quotes are a text, on and off are no numbers."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        number = float(value)
    except OverflowError:  # a whole number of more than 300 digits
        return math.inf
    return int(value) if isinstance(value, numbers.Integral) else number  # a float has 16 digits of it only


def shown(value: Any, most: int = 60) -> str:
    """A value for a message: short, and on one line."""
    if isinstance(value, (str, int, float, bool)) or value is None:
        try:
            said = repr(value)
        except ValueError:  # Python writes no whole number of more than 4300 digits
            return "a huge number"
        return said if len(said) <= most else f"{said[: most - 3]}..."
    return f"a {type(value).__name__}"


def _range(low: float | None, high: float | None) -> str:
    if low is None:
        return f"it must be at most {high:g}"
    return f"it must be at least {low:g}" if high is None else f"it must lie between {low:g} and {high:g}"


class Settings:
    """Base of the settings classes: frozen dataclasses whose fields are made by :func:`setting`.

    Fields may be settings classes themselves; their settings count as the outer class's own. Fields without
    :func:`setting` are the program's business and no user's.
    """

    def __post_init__(self) -> None:
        for entry in entries(type(self)).values():
            if entry.path:
                continue
            value = getattr(self, entry.name)
            checked = entry.check(value)
            if checked is not value:
                object.__setattr__(self, entry.name, checked)  # 2.0, as a file's header may have it

    @classmethod
    def resolve(cls: type[Own], recommended: Mapping[str, Any] | None = None, **chosen: Any) -> Own:
        """What the user chose, else what the model recommends, else the defaults.

        :param recommended: the model's section for this system, see ``files.headers``; unknown names are passed over.
        :param chosen: settings by their names, nested ones too, and other fields; None and auto values choose nothing.
        :raises ValueError: a value out of range.
        """
        known = entries(cls)
        values = {
            name: recommended[entry.recommended_as]
            for name, entry in known.items()
            if recommended and entry.recommended_as in recommended
        }
        for name, value in chosen.items():
            if name not in known or not known[name].left_alone(value):
                values[name] = value
        return _build(cls, values)

    def explain(self, recommended: Mapping[str, Any] | None = None, **chosen: Any) -> str:
        """Which values auto took, and whose they are: for the log and the progress text; "" where nothing was auto."""
        recommendations, published = [], []
        for name, entry in entries(type(self)).items():
            if not entry.about.auto or not entry.left_alone(chosen.get(name)):
                continue
            place = recommendations if recommended and entry.recommended_as in recommended else published
            place.append(f"{name} {value_of(self, entry):g}")
        parts = (("recommended by the model", recommendations), ("published", published))
        return "; ".join(f"{whose}: {', '.join(listed)}" for whose, listed in parts if listed)


def value_of(settings: Settings, entry: Entry) -> Any:
    """What some settings have for one of their class's, nested ones too."""
    owner: Any = settings
    for step in (*entry.path, entry.name):
        owner = getattr(owner, step)
    return owner


def _build(cls: type[Own], values: dict[str, Any]) -> Own:
    """An instance from flat values, nested settings taken out of them."""
    hints = get_type_hints(cls)
    made = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]  # every Settings class is a dataclass
        nested = hints[field.name]
        if _is_settings(nested):
            inner = {name: values.pop(name) for name in entries(nested) if name in values}
            if field.name in values:
                made[field.name] = dataclasses.replace(values.pop(field.name), **inner)
            else:
                made[field.name] = _build(nested, inner)
    return cls(**made, **values)


@cache
def entries(cls: type[Settings]) -> Mapping[str, Entry]:
    """The settings of a class by their names, in order, nested ones in their place."""
    hints = get_type_hints(cls)
    known: dict[str, Entry] = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        hint, about = hints[field.name], field.metadata.get(_KEY)
        if _is_settings(hint):
            for name, entry in entries(hint).items():
                known[name] = dataclasses.replace(entry, path=(field.name, *entry.path))
        elif about is not None:
            options = get_args(hint) if get_origin(hint) is Literal else ()
            known[field.name] = Entry(field.name, str if options else hint, options, field.default, about)
    return known


def _is_settings(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Settings)
