"""Which widget a setting has on the page: label, help and bounds are the setting's own."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...settings import Entry, Settings, entries, value_of

#: A slider of more places than this is hard to move: such numbers are typed.
_PLACES = 1000


@dataclass(frozen=True)
class Control:
    """A setting as a widget.

    :param name: the setting's.
    :param kind: a number within two bounds is a slider; one of a wide range, or with an automatic value, is typed.
    :param value: at first; None is auto.
    :param placeholder: what stands where nothing is chosen.
    """

    name: str
    kind: Literal["slider", "number", "choice", "switch", "text"]
    label: str
    info: str
    value: Any
    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: tuple[str, ...] = ()
    placeholder: str = ""

    @property
    def value_shown(self) -> str:
        """What a typed number's field holds at first; nothing stands for auto."""
        return "" if self.value is None else f"{self.value:g}"

    def component(self) -> Any:
        """The widget, where it is to stand."""
        import gradio as gr

        common = {"label": self.label, "info": self.info, "value": self.value, "min_width": 260}
        if self.kind == "slider":
            return gr.Slider(minimum=self.low, maximum=self.high, step=self.step, **common)
        if self.kind == "number":  # not gr.Number, which shows 0 where nothing is chosen
            return gr.Textbox(placeholder=self.placeholder, **{**common, "value": self.value_shown}, max_lines=1)
        if self.kind == "choice":
            return gr.Dropdown(choices=list(self.choices), **common)
        if self.kind == "switch":
            return gr.Checkbox(**common)
        return gr.Textbox(**common)


def controls(
    settings: type[Settings],
    recommended: Mapping[str, Any],
    *,
    only: Sequence[str] | None = None,
    skip: Container[str] = (),
) -> list[Control]:
    """The settings of a class as widgets.

    :param recommended: what the model's file recommends; it is what auto stands for.
    :param only: their names, in this order; None for all.
    """
    known, auto = entries(settings), settings.resolve(recommended)
    names = list(known) if only is None else only
    return [_control(known[name], auto) for name in names if name not in skip]


def _control(entry: Entry, settings: Settings) -> Control:
    about, label = entry.about, entry.name.replace("_", " ")
    if entry.options:
        return Control(entry.name, "choice", label, about.help, entry.default, choices=entry.options)
    if entry.kind is bool:
        return Control(entry.name, "switch", label, about.help, entry.default)
    if entry.kind is str:
        return Control(entry.name, "text", label, about.help, entry.default)
    step = about.step or (1 if entry.kind is int else 0.01)
    low, high = about.low, about.high
    if about.auto:
        placeholder = f"auto ({value_of(settings, entry):g})"
    else:
        placeholder = f"{entry.default:g}"
        if low is not None and high is not None and (high - low) / step <= _PLACES:
            return Control(entry.name, "slider", label, about.help, entry.default, low, high, step)
    bounds = f" From {low:g} to {high:g}." if low is not None and high is not None else ""
    value = None if about.auto else entry.default
    return Control(entry.name, "number", label, about.help + bounds, value, low, high, step, (), placeholder)


def chosen(settings: type[Settings], shown: Sequence[Control], values: Sequence[Any]) -> dict[str, Any]:
    """What widgets hold, checked; those that were left empty choose nothing.

    :raises ValueError: a value that a setting cannot have, under its name.
    """
    known, found = entries(settings), {}
    for control, value in zip(shown, values, strict=True):
        entry = known[control.name]
        if control.kind == "number":
            value = _typed(value)
        if not entry.left_alone(value):
            found[control.name] = entry.check(value, control.label)
    return found


def _typed(text: Any) -> Any:
    """What was typed as a number; nothing for an empty field, and what is none as it is, to be refused."""
    if not isinstance(text, str):
        return text
    text = text.strip().replace(",", ".")
    try:
        return int(text) if text.lstrip("+-").isdigit() else float(text)
    except ValueError:
        return text or None
