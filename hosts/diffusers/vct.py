"""diffusers as a host of the whole translation (``pipelines.vct.TranslationHost``)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...attention.call import UNCONDITIONAL
from ...attention.control import SOURCE, SOURCE_UNCONDITIONAL, TARGET
from ...diffusion.concept import ConceptProgress, ConceptState, draw_copies, initial_vectors, learn_concept
from ...diffusion.concept_prompt import ConceptPrompt
from ...diffusion.inversion import Inversion
from ...diffusion.learning import HALF_SCALE, drain_or_spare
from ...diffusion.pivot import PivotOptions, PivotProgress, Pivots, search_pivots
from ...pipelines.vct_concept import LearningSettings
from ...pipelines.vct_pair import ControlledRun, Fusion
from .gradients import DifferentiableUNet
from .host import DiffusersHost
from .vct_control import Context, PairDenoiser, sample_pair
from .vct_text import ConceptText

if TYPE_CHECKING:
    from ...pipelines.vct import TranslationHost


@dataclass
class DiffusersTranslator(DiffusersHost):
    """A loaded model and its text encoder.

    :param text: from ``vct_text.load_concept_text``; None where no concept is learned.
    """

    text: ConceptText | None = None

    @property
    def columns(self) -> int:
        return self.model.context.shape[1]

    @property
    def _scale(self) -> float:
        return HALF_SCALE if self.model.unet.dtype == torch.float16 else 1.0

    @torch.no_grad()
    def of_vectors(self, *vectors: Tensor) -> ConceptPrompt:
        """Learned vectors (n, width) for each text encoder as a concept."""
        if self.text is None:
            raise ValueError("A concept needs the model's text encoder; load it with load_concept_text.")
        context, *pooled = self.text([group.to(self.device) for group in vectors])
        return ConceptPrompt(context, context.shape[1], len(vectors[0]), self.text.first, vectors, *pooled)

    def learn(
        self, latents: Tensor, settings: LearningSettings, on_update: Callable[[ConceptProgress], None]
    ) -> ConceptPrompt:
        if self.text is None:
            raise ValueError("Learning a concept needs the model's text encoder; load it with load_concept_text.")
        options = replace(settings.concept, gradient_scale=self._scale)
        state = ConceptState.fresh([initial_vectors(rows, settings.vectors) for rows in self.text.rows(settings.word)])
        text, latents = self.text, latents.to(self.device)
        unet = DifferentiableUNet(self.model, settings.gradient_checkpointing, latents.shape)

        def start() -> Generator[ConceptProgress, None, ConceptState]:
            copies = draw_copies(latents, self.sigma_table, options.accumulation, settings.seed)
            return learn_concept(unet, text, state, copies, options, self.out_of_memory)

        with torch.enable_grad():
            learned = drain_or_spare(start, on_update, unet.spare, self.out_of_memory)
        return self.of_vectors(*learned.vectors)

    def find_pivots(
        self,
        inversion: Inversion,
        options: PivotOptions,
        on_iteration: Callable[[PivotProgress], None],
        checkpointing: bool = False,
    ) -> Pivots:
        placed = replace(inversion, trajectory=inversion.trajectory.to(self.device))
        options = replace(options, gradient_scale=self._scale)
        prompt = self.model.context.float()
        unet = DifferentiableUNet(self.model, checkpointing, placed.trajectory.shape[1:])
        with torch.enable_grad():
            return drain_or_spare(
                lambda: search_pivots(unet, placed, prompt, options=options),
                on_iteration,
                unet.spare,
                self.out_of_memory,
            )

    def fuse(self, start: Tensor, sigmas: Sequence[float], concept: ConceptPrompt, fusion: Fusion) -> Tensor:
        plain = self._unconditional(fusion.pivots)
        texts = {
            UNCONDITIONAL: plain,
            SOURCE_UNCONDITIONAL: plain,
            SOURCE: self.model.context,
            TARGET: concept.prompt,
        }
        denoiser = PairDenoiser(self.model, texts, {} if concept.pooled is None else {TARGET: concept.pooled})
        run = ControlledRun(fusion, sigmas, denoiser.layers)
        return sample_pair(denoiser, run, start.to(self.device), self._callback)[: len(start)]

    def _unconditional(self, pivots: Pivots | None) -> Context:
        """The empty prompt, or a search's contexts in its place: all are sent here, and none in a step."""
        if pivots is None:
            return self.model.context
        contexts = pivots.contexts.to(self.model.context)
        return lambda sigma: contexts[pivots.step(sigma)]


if TYPE_CHECKING:
    _: type[TranslationHost] = DiffusersTranslator
