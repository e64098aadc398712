"""References: their inversions, and the widgets that say whether each input has one or all serve every input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..pipelines.exemplar_inversion import ReferencePair
from ..pipelines.exemplar_settings import ReferencesSettings
from .widgets import resolved

if TYPE_CHECKING:
    from ..diffusion.inversion import Inversion as KeptInversion


def several_of(node: type[io.ComfyNode], values: dict[str, Any]) -> tuple[float, ...] | None:
    """The weights of references that all serve every input, () for all alike; None where each input has one.

    :param values: widget values by their ids, from which these widgets' are taken.
    :raises ValueError: no such choice, no weights, or weights where they would do nothing.
    """
    own = {name: values.pop(name) for name in ("references", "weights") if name in values}
    settings = resolved(node, ReferencesSettings, {}, own)
    return settings.numbers if settings.together else None


def pair_of(color: KeptInversion | None, gray: KeptInversion | None, suffix: str = "") -> ReferencePair | None:
    """A reference that another node inverted; None for none.

    :param suffix: of the inputs' ids.
    :raises ValueError: half of a pair.
    """
    if color is not None and gray is not None:
        return ReferencePair(color, gray)
    if color is not None or gray is not None:
        raise ValueError(
            f"{'gray' if gray is None else 'reference'}_inversion{suffix}: found nothing, expected both "
            "reference_inversion and gray_inversion of the earlier node, or neither."
        )
    return None
