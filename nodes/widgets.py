"""Widgets made from settings (``settings``): the schema's inputs, and the values that come back from them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from comfy_api.latest import io

from ..settings import AUTO, AUTO_HELP, Entry, Settings, entries
from .renamed import renamed_from

log = logging.getLogger(__name__)

Own = TypeVar("Own", bound=Settings)


def widgets(
    settings: type[Settings], *names: str, optional: bool = False, advanced: bool | None = None
) -> list[io.WidgetInput]:
    """Inputs for some settings of a class, in the order named.

    :param optional: for settings that were added when workflows without them were around already.
    :param advanced: whether this node hides them at first, where it does not as the settings say.
    """
    chosen = [entries(settings)[name] for name in names]
    if advanced is not None:
        chosen = [replace(entry, about=replace(entry.about, advanced=advanced)) for entry in chosen]
    return [widget(entry, optional) for entry in chosen]


def later_widgets(*settings: type[Settings]) -> list[io.WidgetInput]:
    """Inputs for the settings of some classes that were added later, for the end of a node's inputs."""
    later = {entry.widget: entry for known in settings for entry in entries(known).values() if entry.about.later}
    return [widget(entry, optional=True) for entry in later.values()]


def widget(entry: Entry, optional: bool = False) -> io.WidgetInput:
    """The input for one setting; it carries the setting, for the pages that are made from schemas (``texts``)."""
    made = _widget(entry, optional)
    made.setting = entry
    return made


def _widget(entry: Entry, optional: bool) -> io.WidgetInput:
    about = entry.about
    common: dict[str, Any] = {"tooltip": tooltip(entry), "optional": optional, "default": entry.default}
    if about.advanced:
        common["advanced"] = True
    if about.formerly and not about.widget:
        common["extra_dict"] = renamed_from(about.formerly)
    if entry.options:
        return io.Combo.Input(entry.widget, options=list(entry.options), **common)
    if entry.kind is bool:
        return io.Boolean.Input(entry.widget, **common)
    if entry.kind is str:
        return io.String.Input(entry.widget, multiline=about.multiline, **common)
    low, step = about.low, about.step
    if about.auto:
        common["default"] = low = entry.kind(AUTO)
        if entry.kind is int:
            step = 1  # the page snaps whole numbers to multiples of the step, so that -1 could not be typed
    bounds = {"min": low, "max": about.high, "step": step}
    common |= {name: value for name, value in bounds.items() if value is not None}
    if entry.kind is int:
        return io.Int.Input(entry.widget, **common)
    return io.Float.Input(entry.widget, round=about.round, **common)


def tooltip(entry: Entry) -> str:
    """A setting's help, and what auto means where there is one."""
    return f"{entry.about.help} {AUTO_HELP}" if entry.about.auto else entry.about.help


def resolved(
    node: type[io.ComfyNode],
    settings: type[Own],
    recommended: Mapping[str, Any],
    values: Mapping[str, Any],
    **more: Any,
) -> Own:
    """Settings from a node's widgets; what auto took goes to the log and to the node's progress text.

    :param recommended: the model's section for this system, {} where it recommends nothing.
    :param values: widget values by their ids, see :func:`check_widgets`.
    :param more: other fields of the settings.
    :raises ValueError: settings that do not go together.
    """
    names = {entry.widget: name for name, entry in entries(settings).items()}
    chosen = {names.get(key, key): value for key, value in values.items()}
    try:
        made = settings.resolve(recommended, **chosen, **more)
    except ValueError as error:  # of a file's recommendation, or of values that do not go together
        raise ValueError(f"{title(node)}: {error}") from None
    told = made.explain(recommended, **chosen)
    if told:
        announce(node, f"auto: {told}")
    return made


def check_widgets(node: type[io.ComfyNode], values: Mapping[str, Any]) -> None:
    """Whether a node's widgets hold what their settings can have.

    The page keeps widgets within their bounds, but a value that comes through a link, or in a prompt sent to the
    server, may be anything.

    :param values: by the widgets' ids; other inputs are passed over.
    :raises ValueError: a value that its setting cannot have; node and widget are named.
    """
    for item in _schema(node).inputs:
        entry: Entry | None = getattr(item, "setting", None)
        if entry is None or item.id not in values:
            continue
        value = values[item.id]
        if value is None or not entry.left_alone(value):
            entry.check(value, f"{title(node)}: {item.id}")


def title(node: type[io.ComfyNode]) -> str:
    """A node's name as the user sees it."""
    schema = _schema(node)
    return schema.display_name or schema.node_id


def _schema(node: type[io.ComfyNode]) -> io.Schema:
    # GET_SCHEMA would write to a class that is locked while it runs
    return getattr(node, "SCHEMA", None) or node.define_schema()


def announce(node: type[io.ComfyNode], text: str) -> None:
    """A line for the log and for the node's progress text."""
    from server import PromptServer

    log.info("%s: %s", title(node), text)
    hidden = getattr(node, "hidden", None)
    server = getattr(PromptServer, "instance", None)  # None in tests that run without a server
    if server is not None and hidden is not None and hidden.unique_id is not None:
        server.send_progress_text(text, hidden.unique_id)
