"""One reference picture's concept moved into pictures that keep their content (VCT, arXiv 2307.14352), on any host.

    reference --encode--> latent --concept inversion--> concept: a prompt of learned vectors
    content --encode--> latent --DDIM inversion--> way of the picture --pivot inversion--> unconditional prompts
    both --content-concept fusion--> latent --decode--> picture, at the content's own size

Every stage is a function that the single nodes run too. Pivots are found picture by picture; without them all pictures
of one size go through inversion and fusion together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ..attention.alignment import WEIGHT_PLACES, concept_control
from ..attention.bank import FeatureBank
from ..attention.control import SELF_LAYERS, PromptControl, self_layer_options
from ..color import as_picture, resize
from ..color.sizes import working_size
from ..diffusion.concept import ConceptOptions, ConceptProgress
from ..diffusion.concept_prompt import ConceptPrompt
from ..diffusion.inversion import Inversion
from ..diffusion.pivot import PivotOptions, PivotProgress, Pivots
from ..diffusion.replay import Replay
from ..diffusion.schedule import InversionPlan, inversion_plan
from .host import Host


class TranslationHost(Host, Protocol):
    """A host that can also learn and fuse."""

    #: Columns of its own (empty) prompt.
    columns: int

    def learn(
        self,
        latents: Tensor,
        vectors: int,
        word: str,
        options: ConceptOptions,
        seed: int,
        on_update: Callable[[ConceptProgress], None],
    ) -> ConceptPrompt:
        """Concept inversion of latents (P, C, h, w)."""

    def find_pivots(
        self, inversion: Inversion, options: PivotOptions, on_iteration: Callable[[PivotProgress], None]
    ) -> Pivots:
        """Pivot inversion of one picture under the host's own prompt."""

    def fuse(
        self,
        start: Tensor,
        plan: InversionPlan,
        concept: ConceptPrompt,
        control: PromptControl,
        replay: Replay | None,
        pivots: Pivots | None,
        guidance: float,
        mask: Tensor | None,
    ) -> Tensor:
        """Content-concept fusion from (B, C, h, w) at ``plan.sigmas[0]`` to ``plan.sigmas[-1]``."""


@dataclass(frozen=True)
class TranslateSettings:
    """Everything a user can choose; the defaults are the published program's, for Stable Diffusion.

    :param steps: of the schedule, all of which are climbed.
    :param convention: levels, see ``diffusion.schedule.inversion_plan``.
    :param guidance: classifier-free guidance weight.
    :param cross_ratio: share of the run in which cross-attention follows the content; ``self_ratio`` likewise.
    :param concept_weight: factor on the concept's attention in the cross window.
    :param weight_place: ``intended`` or ``official``, see ``attention.alignment.concept_control``.
    :param self_layers: one of ``SELF_LAYERS``.
    :param pivots: how unconditional prompts are searched for; None does without.
    :param vectors: of the concept; ``word`` is where they start, ``concept`` how they are learned.
    :param resolution: side of the square whose area the model works at; 0 is the picture's own size.
    """

    steps: int = 50
    convention: str = "consistent"
    guidance: float = 7.5
    cross_ratio: float = 0.2
    self_ratio: float = 0.9
    concept_weight: float = 0.5
    weight_place: str = WEIGHT_PLACES[0]
    self_layers: str = SELF_LAYERS[0]
    pivots: PivotOptions | None = field(default_factory=PivotOptions)
    vectors: int = 3
    word: str = "picture"
    concept: ConceptOptions = field(default_factory=ConceptOptions)
    seed: int = 0
    resolution: int = 512

    @classmethod
    def recommended(cls, letters: Mapping[str, Any], **chosen: Any) -> TranslateSettings:
        """The published program's settings, or the embedded model's, overridden by what the user chose.

        :param letters: ``recommended`` of a loaded model, {} for all but the embedded one.
        :param chosen: any of our fields, ``updates``, ``learning_rate`` and ``l1_weight`` of the concept, and
            ``pivot_iterations`` (0: no pivots).
        """
        values = {**(_EMBEDDED | {"resolution": letters["resolution"]} if "resolution" in letters else {}), **chosen}
        learning = {name: values.pop(name) for name in ("updates", "learning_rate", "l1_weight") if name in values}
        iterations = values.pop("pivot_iterations", PivotOptions.iterations)
        guidance = values.get("guidance", cls.guidance)
        pivots = economical_pivots(guidance, iterations) if iterations and guidance > 1 else None
        return cls(**values, concept=ConceptOptions(**learning), pivots=pivots)

    def calls(self, pictures: int, learning: bool) -> int:
        """Units of progress: an update of the concept, a step of an inversion, an iteration, a step of a fusion."""
        searching = self.steps * self.pivots.iterations if self.pivots is not None else 0
        rounds = pictures if self.pivots is not None else 1
        return (self.concept.updates if learning else 0) + rounds * (2 * self.steps + searching)


#: What the embedded model likes: it is native at 128 pixels and reads no weight on padding.
_EMBEDDED = {
    "steps": 10,
    "guidance": 4.0,
    "concept_weight": 1.0,
    "pivot_iterations": 3,
    "updates": 40,
    "learning_rate": 5e-3,
}


def economical_pivots(guidance: float, iterations: int) -> PivotOptions:
    """Pivots that hold a picture at a guidance weight, by the economical variant of the search."""
    return PivotOptions(guidance=guidance, advance_guidance=None, iterations=iterations, keep_last_update=False)


@dataclass(frozen=True, eq=False)
class Translation:
    """:param images: (B, H, W, 3) at the contents' own size.
    :param concept: reusable for other contents.
    :param reconstruction_errors: what the pivots leave, one a picture; () without pivots.
    """

    images: Tensor
    concept: ConceptPrompt
    reconstruction_errors: tuple[float, ...] = ()


#: OnProgress of every unit of progress: (phase, what happened).
OnProgress = Callable[[str, Any], None]


def learn(
    host: TranslationHost, references: Tensor, settings: TranslateSettings, on_progress: OnProgress | None = None
) -> ConceptPrompt:
    """The concept of one or more pictures (B, H, W, 3) of one thing or style."""
    references = as_picture(references, "reference")
    size = working_size(*references.shape[1:3], settings.resolution, host.size_multiple, host.factor)
    latents = host.encode(resize(references, size))
    return host.learn(
        latents,
        settings.vectors,
        settings.word,
        settings.concept,
        settings.seed,
        lambda progress: on_progress("concept", progress) if on_progress else None,
    )


def translate(
    host: TranslationHost,
    contents: Tensor,
    concept: ConceptPrompt,
    settings: TranslateSettings,
    mask: Tensor | None = None,
    on_progress: OnProgress | None = None,
) -> Translation:
    """Move a concept into pictures.

    :param contents: (B, H, W, 3) in 0..1.
    :param mask: (1 or B, H, W), where a picture may change.
    :raises ValueError: settings or masks that do not fit, before any model call.
    """
    contents = as_picture(contents, "content")
    if mask is not None and len(mask) not in (1, len(contents)):
        raise ValueError(f"There are {len(mask)} masks for {len(contents)} pictures; use one for all, or one for each.")
    plan = inversion_plan(host.sigma_table, settings.steps, settings.steps, settings.convention)
    if settings.pivots is not None:
        settings.pivots.check(settings.steps)
    control = concept_control(
        (host.columns, concept.columns),
        concept.vectors,
        concept.first,
        cross_window=settings.cross_ratio,
        self_window=settings.self_ratio,
        weight=settings.concept_weight,
        weight_place=settings.weight_place,
        **self_layer_options(settings.self_layers, host.layers),
    )
    size = working_size(*contents.shape[1:3], settings.resolution, host.size_multiple, host.factor)
    latents = host.encode(resize(contents, size))
    groups = [[i] for i in range(len(contents))] if settings.pivots is not None else [list(range(len(contents)))]
    images, errors = [], []
    for group in groups:
        trajectory = host.invert(latents[group], plan)
        inversion = Inversion(plan, trajectory, FeatureBank(), host.fingerprint, host.layers)
        pivots = None
        if settings.pivots is not None:
            pivots = host.find_pivots(
                inversion, settings.pivots, lambda p: on_progress("pivots", p) if on_progress else None
            )
            errors.append(pivots.reconstruction_error)
        replay = Replay.of_pivots(pivots) if pivots is not None else Replay.of_inversion(inversion)
        own = mask if mask is None or len(mask) == 1 else mask[group]
        last = host.fuse(inversion.noised(), plan, concept, control, replay, pivots, settings.guidance, own)
        images.append(host.decode(plan.to_clean(last)).to(contents))
    return Translation(resize(torch.cat(images), tuple(contents.shape[1:3])), concept, tuple(errors))
