"""diffusers as a host of the whole translation (``pipelines.vct.TranslationHost``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...attention.control import SOURCE, SOURCE_UNCONDITIONAL, TARGET, PromptControl
from ...diffusion.concept import (
    ConceptOptions,
    ConceptProgress,
    ConceptState,
    draw_copies,
    initial_vectors,
    learn_concept,
)
from ...diffusion.concept_prompt import ConceptPrompt
from ...diffusion.inversion import Inversion
from ...diffusion.pivot import PivotOptions, PivotProgress, Pivots, search_pivots
from ...diffusion.replay import Replay
from ...diffusion.schedule import InversionPlan
from ...pipelines.vct_pair import ControlledRun
from .gradients import differentiable_unet
from .host import DiffusersHost
from .vct_control import UNCONDITIONAL, PairDenoiser, sample_pair
from .vct_text import ConceptText

#: See ``diffusion.pivot.PivotOptions.gradient_scale``.
_HALF_SCALE = 4096.0


@dataclass
class DiffusersTranslator(DiffusersHost):
    """A loaded model and its text encoder.

    :param text: from ``standalone_text.load_concept_text``; None where no concept is learned.
    :param checkpointing: learn with less memory and more time.
    """

    text: ConceptText | None = None
    checkpointing: bool = False

    @property
    def columns(self) -> int:
        return self.model.context.shape[1]

    @property
    def _scale(self) -> float:
        return _HALF_SCALE if self.model.unet.dtype == torch.float16 else 1.0

    @torch.no_grad()
    def of_vectors(self, *vectors: Tensor) -> ConceptPrompt:
        """Learned vectors (n, width) for each text encoder as a concept."""
        if self.text is None:
            raise ValueError("A concept needs the model's text encoder; load it with load_concept_text.")
        context, *pooled = self.text([group.to(self.device) for group in vectors])
        return ConceptPrompt(context, context.shape[1], len(vectors[0]), self.text.first, vectors, *pooled)

    def learn(
        self,
        latents: Tensor,
        vectors: int,
        word: str,
        options: ConceptOptions,
        seed: int,
        on_update: Callable[[ConceptProgress], None],
    ) -> ConceptPrompt:
        if self.text is None:
            raise ValueError("Learning a concept needs the model's text encoder; load it with load_concept_text.")
        text = self.text
        state = ConceptState.fresh([initial_vectors(rows, vectors) for rows in text.rows(word)])
        copies = draw_copies(latents.to(self.device), self.sigma_table, options.accumulation, seed)
        unet = differentiable_unet(self.model, self.checkpointing)
        with torch.enable_grad():
            for progress in learn_concept(unet, text, state, copies, replace(options, gradient_scale=self._scale)):
                state = progress.state
                on_update(progress)
        return self.of_vectors(*state.vectors)

    def find_pivots(
        self, inversion: Inversion, options: PivotOptions, on_iteration: Callable[[PivotProgress], None]
    ) -> Pivots:
        placed = replace(inversion, trajectory=inversion.trajectory.to(self.device))
        options = replace(options, gradient_scale=self._scale)
        with torch.enable_grad():
            search = search_pivots(
                differentiable_unet(self.model, self.checkpointing), placed, self.model.context.float(), options=options
            )
            while True:
                try:
                    on_iteration(next(search))
                except StopIteration as done:
                    return done.value

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
        plain = self.model.context if pivots is None else pivots.at
        texts = {
            UNCONDITIONAL: plain,
            SOURCE_UNCONDITIONAL: plain,
            SOURCE: self.model.context,
            TARGET: concept.prompt,
        }
        denoiser = PairDenoiser(self.model, texts, {} if concept.pooled is None else {TARGET: concept.pooled})
        run = ControlledRun(control, plan.sigmas, denoiser.layers, replay, mask=mask)
        streams = sample_pair(denoiser, run, start.to(self.device), guidance, self._callback)
        return streams[: len(start)]
