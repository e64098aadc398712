"""References that are inverted once and kept in a file: ``colorize --save-inversion`` and ``--inversion``."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from . import options as common
from .terminal import say

if TYPE_CHECKING:
    from torch import Tensor

    from ..pipelines.exemplar_inversion import ReferencePair
    from ..pipelines.exemplar_references import References
    from ..pipelines.exemplar_settings import ColorizeSettings
    from ..pipelines.host import Host

log = logging.getLogger(__name__)

#: Distance of two clean latents, relative to their spread, from which they are of two pictures. The same picture in
#: half precision stays below 0.02, others are above 0.5.
_OTHER = 0.1


def add_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--inversion",
        type=common.path,
        metavar="FILE",
        help="the references as --save-inversion wrote them, with the same model and settings: they are not inverted "
        "again. Name --reference, too, in the same order, unless --match-chroma is 0 (default: none)",
    )
    group.add_argument(
        "--save-inversion",
        type=common.path,
        metavar="FILE",
        help="keep the inverted references in this .safetensors file; one that this command did not make is never "
        "replaced (default: they are not kept)",
    )


class Keeper:
    """Where inverted references come from, and where they go.

    :raises ValueError: the file that is named cannot be read, or not be written.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        from ..files.inversions import KEY, MAKER
        from ..files.owned import OwnPlace

        self.source: Path | None = options.inversion
        self.pair = None if options.inversion is None else _load(options.inversion)
        self._place = None
        if options.save_inversion is not None:
            if options.inversion is not None:
                raise ValueError("--save-inversion would copy the file of --inversion; leave one of them out.")
            self._place = OwnPlace(options.save_inversion, KEY, MAKER)

    def check(
        self, host: Host, reference: Tensor | References | None, settings: ColorizeSettings
    ) -> Tensor | References | None:
        """Whether the file serves a run.

        :returns: the references; several of which there are inversions alone are named so.
        :raises ValueError: another model, plan or number, or no picture where one is needed.
        """
        from ..diffusion.schedule import inversion_plan
        from ..pipelines.exemplar import check_references_known
        from ..pipelines.exemplar_inversion import Inverter, color_layers
        from ..pipelines.exemplar_references import References

        if self.pair is None:
            return reference
        if reference is None and self.pair.pictures > 1:
            reference = References()
        plan = inversion_plan(host.sigma_table, settings.steps, settings.depth, settings.convention)
        try:
            Inverter(host, plan, color_layers(host.layers, settings.attention.layers), settings).check_prepared(
                self.pair
            )
            check_references_known(reference, self.pair, settings)
        except ValueError as error:
            said = str(error).replace("connect it", "name it by --reference").replace("match_chroma", "--match-chroma")
            raise ValueError(f"--inversion {self.source}: {said}") from None
        self._compare(host, reference, settings)
        return reference

    def keep(self, pair: ReferencePair) -> None:
        """Write what was inverted, once.

        :raises ValueError: somebody else wrote to the place meanwhile. :raises OSError: it cannot be written.
        """
        from ..files.inversions import Inversions, save_inversions

        place, self._place = self._place, None
        if place is None:
            return
        parts = pair.parts
        made = Inversions(tuple(part.color for part in parts), tuple(part.gray for part in parts))
        place.write(lambda path, new: save_inversions(path, made))
        say(place.path)

    def _compare(self, host: Host, reference: Tensor | References | None, settings: ColorizeSettings) -> None:
        """Say where the file is of other pictures than those that are named."""
        from ..color import resize
        from ..pipelines.exemplar_inversion import size_to_work_at
        from ..pipelines.exemplar_references import References

        if self.pair is None or reference is None:
            return
        pictures = reference.pictures if isinstance(reference, References) else (reference,)
        kept = [part.color.take(range(i, i + 1)) for part in self.pair.parts for i in range(part.color.pictures)]
        for number, (picture, inversion) in enumerate(zip(pictures, kept, strict=False), 1):
            found = host.encode(resize(picture, size_to_work_at(host, picture, settings)))
            start = inversion.trajectory[0].to(found)
            if start.shape != found.shape or _distance(inversion.plan.from_clean(found), start) > _OTHER:
                log.warning(
                    "--inversion %s is of another picture than --reference %d, or was made at another resolution: its "
                    "colors go where they match, but statistics are those of the picture that is named.",
                    self.source,
                    number,
                )


def _load(path: Path) -> ReferencePair:
    """:raises ValueError: the file holds no references beside their gray versions, or is damaged."""
    from dataclasses import replace

    from ..files.inversions import load_inversions
    from ..pipelines.exemplar_inversion import ReferencePair

    found = load_inversions(path)
    if not found.gray:
        raise ValueError(
            f"--inversion {path}: found a picture's inversion alone, expected that of a reference beside the same "
            "without color; give a file that --save-inversion wrote."
        )
    first, *others = (ReferencePair(color, gray) for color, gray in zip(found.color, found.gray, strict=True))
    return replace(first, others=tuple(others))


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).pow(2).mean().sqrt() / other.std().clamp_min(1e-6))
