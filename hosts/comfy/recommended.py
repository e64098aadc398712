"""What a MODEL recommends: settings by system, attached to it by its loader, for widgets that are left on auto."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...files.ldm import Family, native_recommendation

_ATTACHMENT = "exemplar.recommended"

#: Families by ComfyUI's classes, where something follows from the family alone.
_FAMILIES: dict[str, Family] = {"SDXL": "sdxl"}


def recommend(model: Any, sections: Mapping[str, Mapping[str, Any]]) -> Any:
    """Attach recommendations to a MODEL (in place: the loader's own).

    :param sections: system -> setting -> value, see ``files.headers.read_recommended``.
    """
    model.set_attachments(_ATTACHMENT, {system: dict(section) for system, section in sections.items()})
    return model


def recommended(model: Any, system: str) -> dict[str, Any]:
    """The settings that a MODEL recommends for a system; {} where it recommends nothing."""
    attached = model.get_attachment(_ATTACHMENT) or {}
    family = _FAMILIES.get(type(model.model).__name__)
    native = {} if family is None else native_recommendation(family)
    return {**native.get(system, {}), **attached.get(system, {})}
