"""What a MODEL recommends: settings by system, attached to it by its loader, for widgets that are left on auto."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ATTACHMENT = "exemplar.recommended"

#: Side of the pictures that families beside Stable Diffusion 1.x were trained on, by ComfyUI's class.
_NATIVE_SIDES = {"SDXL": 1024}


def recommend(model: Any, sections: Mapping[str, Mapping[str, Any]]) -> Any:
    """Attach recommendations to a MODEL (in place: the loader's own).

    :param sections: system -> setting -> value, see ``files.headers.read_recommended``.
    """
    model.set_attachments(_ATTACHMENT, {system: dict(section) for system, section in sections.items()})
    return model


def recommended(model: Any, system: str) -> dict[str, Any]:
    """The settings that a MODEL recommends for a system; {} where it recommends nothing."""
    attached = model.get_attachment(_ATTACHMENT) or {}
    side = _NATIVE_SIDES.get(type(model.model).__name__)
    native = {} if side is None else {"resolution": side}
    return {**native, **attached.get(system, {})}
