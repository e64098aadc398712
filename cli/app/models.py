"""What is loaded, once, before the page is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...hosts.diffusers.checkpoint import StandaloneModel
    from ...hosts.diffusers.host import DiffusersHost
    from ...networks.ddcolor.load import LoadedDDColor


@dataclass(frozen=True)
class Models:
    """The loaded models.

    :param name: of the model, for the page.
    :param model: of exemplar colorization and color memories.
    :param ddcolor: of colors with no reference.
    """

    name: str
    model: StandaloneModel
    ddcolor: LoadedDDColor

    @classmethod
    def load(cls, model: Path | None, ddcolor: Path | None, placed: Mapping[str, Any]) -> Models:
        """Load everything once.

        :param model: checkpoint or folder; None is the embedded model. ``ddcolor`` likewise.
        :param placed: ``device``, ``dtype``, ``prediction`` and ``vae``, see ``cli.options.checkpoint``.
        :raises ValueError: a file is another model's.
        """
        from ...demo import ddcolor_path, model_path
        from ...hosts.diffusers.checkpoint import load_standalone
        from ...networks.ddcolor.load import load_ddcolor
        from ...pipelines.recommended import SYSTEMS

        path, file = model or model_path(), ddcolor or ddcolor_path()
        where = {name: placed[name] for name in ("device", "dtype")}
        network = load_ddcolor(file, systems=SYSTEMS, **where)  # the small one first: what is refused is refused soon
        return cls(
            "embedded, made for drawings" if model is None else path.name, load_standalone(path, **placed), network
        )

    def host(self, on_step: Callable[[], None]) -> DiffusersHost:
        """The model as a pipeline's host.

        :param on_step: called after each model call; what it raises ends the work.
        """
        from ...hosts.diffusers.host import DiffusersHost

        return DiffusersHost(self.model, on_step=lambda _: on_step())

    def recommended(self, system: str) -> Mapping[str, Any]:
        """What the model's file recommends for a system."""
        return self.model.recommended.get(system, {})
