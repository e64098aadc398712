"""References: their inversions, and the widgets that say whether each input has one or all serve every input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..pipelines.exemplar_inversion import ReferencePair
from ..pipelines.exemplar_settings import ReferencesSettings
from .inputs import optional_mask
from .widgets import resolved

if TYPE_CHECKING:
    from torch import Tensor

    from ..diffusion.inversion import Inversion as KeptInversion


def several_of(node: type[io.ComfyNode], values: dict[str, Any]) -> tuple[float, ...] | None:
    """The weights of references that all serve every input, () for all alike; None where each input has one.

    :param values: widget values by their ids, from which these widgets' are taken.
    :raises ValueError: no such choice, no weights, or weights where they would do nothing.
    """
    own = {name: values.pop(name) for name in ("references", "weights") if name in values}
    settings = resolved(node, ReferencesSettings, {}, own)
    return settings.numbers if settings.together else None


def statistics_mask_input() -> io.Mask.Input:
    """Of a node that takes statistics of references, and nothing else of them."""
    return io.Mask.Input(
        "reference_mask",
        optional=True,
        tooltip="With all for every image, which part of each reference counts (what is above one half). One for all "
        "references, or one for each; a black one leaves its reference out. A single reference always counts as a "
        "whole, as in Exemplar Colorize.",
    )


def statistics_mask(node: type[io.ComfyNode], mask: Any, several: object, references: int) -> Tensor | None:
    """What :func:`statistics_mask_input` gives, (1 or references, H, W).

    :param several: what :func:`several_of` gives.
    :param references: how many there are.
    :raises ValueError: not masks, another number of them, or one where it would do nothing.
    """
    made = optional_mask(node, mask, "reference_mask", references)
    if made is not None and several is None:
        raise ValueError(
            "reference_mask: found one, expected none with references on one per image, where each "
            "reference counts as a whole; disconnect it, or set references to all for every image."
        )
    if made is not None and not references:
        raise ValueError(
            "reference_mask: found one, expected none without a reference; connect the reference, or "
            "disconnect the mask."
        )
    return made


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
