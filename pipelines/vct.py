"""One reference picture's concept moved into pictures that keep their content (VCT, arXiv 2307.14352), on any host.

    reference --encode--> latent --concept inversion--> concept: a prompt of learned vectors
    content --encode--> latent --DDIM inversion--> way of the picture --pivot inversion--> unconditional prompts
    both --content-concept fusion--> latent --decode--> picture, at the content's own size

Every stage is a function that the single nodes run too. Pivots are found picture by picture; without them all pictures
of one size go through inversion and fusion together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from ..attention.bank import FeatureBank
from ..color import as_picture, check_masks, in_batches, part_of, resize
from ..color.sizes import working_size
from ..diffusion.concept import ConceptProgress
from ..diffusion.concept_prompt import ConceptPrompt
from ..diffusion.inversion import Inversion
from ..diffusion.pivot import PivotOptions, PivotProgress, Pivots
from ..diffusion.replay import Replay
from ..diffusion.schedule import InversionPlan, inversion_plan
from ..settings import setting
from .host import Host
from .vct_concept import LearningSettings
from .vct_pair import Fusion, FusionSettings
from .vct_pivot import economical_pivots


class TranslationHost(Host, Protocol):
    """A host that can also learn and fuse."""

    @property
    def columns(self) -> int:
        """Columns of its own (empty) prompt."""
        ...

    def learn(
        self, latents: Tensor, settings: LearningSettings, on_update: Callable[[ConceptProgress], None]
    ) -> ConceptPrompt:
        """Concept inversion of latents (P, C, h, w)."""
        ...

    def find_pivots(
        self,
        inversion: Inversion,
        options: PivotOptions,
        on_iteration: Callable[[PivotProgress], None],
        checkpointing: bool,
    ) -> Pivots:
        """Pivot inversion of one picture under the host's own prompt.

        :param checkpointing: less memory and more time.
        """
        ...

    def fuse(self, start: Tensor, sigmas: Sequence[float], concept: ConceptPrompt, fusion: Fusion) -> Tensor:
        """Content-concept fusion from (B, C, h, w) at ``sigmas[0]`` to ``sigmas[-1]``."""
        ...


@dataclass(frozen=True)
class TranslateSettings(FusionSettings, LearningSettings):
    """Everything that a user of the whole translation can choose."""

    resolution: int = setting(
        512,
        "Side of the square whose area the model works at: its native size is best. Low is fast and coarse, high "
        "repeats things. 0 is the pictures' own size.",
        low=0,
        high=4096,
        step=8,
        auto=True,
    )
    steps: int = setting(
        50,
        "Steps up and down. Few are fast and bring the picture back less well, many are truer.",
        low=2,
        high=100,
        advanced=True,
        auto=True,
    )
    pivot_iterations: int = setting(
        50,
        "Most updates a step of the unconditional prompts that hold the picture under cfg. Few are fast and leave an "
        "error, many come closer; 0 does without and is much faster.",
        low=0,
        high=500,
        advanced=True,
        auto=True,
    )
    convention: Literal["consistent", "diffusers"] = setting(
        "consistent",
        "consistent ends at no noise. diffusers ends at the smallest training noise, as the published program does.",
        published="diffusers",
        advanced=True,
    )

    @property
    def pivots(self) -> PivotOptions | None:
        """How unconditional prompts are searched for; None does without."""
        return economical_pivots(self.cfg, self.pivot_iterations)

    def calls(self, pictures: int, learning: bool) -> int:
        """Units of progress: an update of the concept, a step of an inversion, an iteration, a step of a fusion."""
        searching = 0 if self.pivots is None else self.steps * self.pivot_iterations
        rounds = 1 if self.pivots is None else pictures
        return (self.concept.updates if learning else 0) + rounds * (2 * self.steps + searching)


@dataclass(frozen=True, eq=False)
class Translation:
    """Translated pictures.

    :param images: (B, H, W, 3) at the contents' own size.
    :param concept: reusable for other contents.
    :param reconstruction_errors: what the pivots leave, one a picture; () without pivots.
    """

    images: Tensor
    concept: ConceptPrompt
    reconstruction_errors: tuple[float, ...] = ()


#: Called with the phase (``concept`` or ``pivots``) and what happened in it, after every update and every iteration.
OnProgress = Callable[[Literal["concept", "pivots"], ConceptProgress | PivotProgress], object]


def learn(
    host: TranslationHost, references: Tensor, settings: TranslateSettings, on_progress: OnProgress | None = None
) -> ConceptPrompt:
    """The concept of one or more pictures (B, H, W, 3) of one thing or style.

    :raises ValueError: settings that would fail afterward, see :func:`translate`, before anything is learned.
    """
    references = as_picture(references, "reference")
    _plan(host, settings)
    size = _size(host, references, settings)

    def encoded(part: slice) -> Tensor:
        return host.encode(resize(references[part], size))

    parts = in_batches(len(references), len(references), encoded, host.out_of_memory)
    latents = torch.cat([latent for _, latent in parts])

    def on_update(progress: ConceptProgress) -> None:
        if on_progress is not None:
            on_progress("concept", progress)

    return host.learn(latents, settings, on_update)


def translate(
    host: TranslationHost,
    contents: Tensor,
    concept: ConceptPrompt,
    settings: TranslateSettings,
    mask: Tensor | None = None,
    on_progress: OnProgress | None = None,
    expect: Callable[[int], None] | None = None,
) -> Translation:
    """Move a concept into pictures.

    :param contents: (B, H, W, 3) in 0..1.
    :param mask: (1 or B, H, W), where a picture may change.
    :param expect: called with the units of progress that are still to come, where memory ran out and there will be
        more.
    :raises ValueError: settings or masks that do not fit, before any model call.
    """
    contents = as_picture(contents, "content")
    check_masks(mask, len(contents))
    plan, pivot_options = _plan(host, settings), settings.pivots
    control = settings.control((host.columns, concept.columns), concept.vectors, concept.first, host.layers)
    size = _size(host, contents, settings)

    def on_iteration(progress: PivotProgress) -> None:
        if on_progress is not None:
            on_progress("pivots", progress)

    def work(part: slice) -> tuple[Tensor, float | None]:
        trajectory = host.invert(host.encode(resize(contents[part], size)), plan, None, 0)
        inversion = Inversion(plan, trajectory, FeatureBank(), host.fingerprint, host.layers)
        pivots = None
        if pivot_options is not None:
            pivots = host.find_pivots(inversion, pivot_options, on_iteration, settings.gradient_checkpointing)
        fusion = Fusion(
            control,
            settings.cfg,
            Replay.of_inversion(inversion) if pivots is None else Replay.of_pivots(pivots),
            pivots,
            mask=part_of(mask, part),
        )
        last = host.fuse(inversion.noised(), plan.sigmas, concept, fusion)
        image = host.decode(plan.to_clean(last)).to(contents)
        return image, None if pivots is None else pivots.reconstruction_error

    def fewer(first: int, at_once: int) -> None:
        if expect is not None:
            expect(-(-(len(contents) - first) // at_once) * 2 * settings.steps)

    at_once = len(contents) if pivot_options is None else 1  # pivots belong to one picture
    made = [each for _, each in in_batches(len(contents), at_once, work, host.out_of_memory, fewer)]
    images, errors = [image for image, _ in made], [error for _, error in made if error is not None]
    height, width = contents.shape[1:3]
    return Translation(resize(torch.cat(images), (height, width)), concept, tuple(errors))


def _plan(host: TranslationHost, settings: TranslateSettings) -> InversionPlan:
    """The whole way up and back.

    :raises ValueError: steps that the model's schedule or the search of pivots does not have.
    """
    plan = inversion_plan(host.sigma_table, settings.steps, settings.steps, settings.convention)
    if settings.pivots is not None:
        settings.pivots.check(settings.steps)
    return plan


def _size(host: TranslationHost, pictures: Tensor, settings: TranslateSettings) -> tuple[int, int]:
    """(height, width) that the model works at, for pictures (B, H, W, 3)."""
    height, width = pictures.shape[1:3]
    return working_size(height, width, settings.resolution, host.size_multiple, host.factor)
