"""ComfyUI as a host of the whole translation (``pipelines.vct.TranslationHost``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...diffusion.concept import ConceptProgress
from ...diffusion.concept_prompt import ConceptPrompt
from ...diffusion.inversion import Inversion
from ...diffusion.pivot import PivotOptions, PivotProgress, Pivots
from ...diffusion.sampling import sample_ddim
from ...pipelines.vct_concept import LearningSettings
from ...pipelines.vct_pair import Fusion
from . import sampling
from .host import ComfyHost
from .prompts import first_column, text_columns
from .vct_concept import learning
from .vct_control import pair_guider
from .vct_pivot import find_pivots

if TYPE_CHECKING:
    from ...pipelines.vct import TranslationHost


class ComfyTranslator(ComfyHost):
    """One MODEL with its CLIP, VAE and empty prompt.

    :param on_step: called with the clean estimate after every step of an inversion or a fusion.
    """

    def __init__(
        self,
        model: Any,
        clip: Any,
        vae: Any,
        on_step: Callable[[Tensor], None] | None = None,
    ) -> None:
        empty = clip.encode_from_tokens_scheduled(clip.tokenize(""))
        super().__init__(model, empty, vae, on_step, "Exemplar Translate")
        self.clip = clip
        self._short = False  # of memory: activations are computed again, of whatever is learned next
        self.columns = text_columns(empty, "empty")

    def concept(self, conditioning: list, vectors: int) -> ConceptPrompt:
        """A CONDITIONING as a concept of that many vectors."""
        columns = text_columns(conditioning, "concept")
        return ConceptPrompt(conditioning, columns, vectors, first_column(conditioning, self.conditioning))

    def learn(
        self, latents: Tensor, settings: LearningSettings, on_update: Callable[[ConceptProgress], None]
    ) -> ConceptPrompt:
        with learning(self.model, self.clip, latents, settings) as learner:
            state = learner.learn(learner.start(), on_update)
            self._short |= learner.unet.checkpointing
        return self.concept(learner.conditioning(self.clip, state), settings.vectors)

    def find_pivots(
        self,
        inversion: Inversion,
        options: PivotOptions,
        on_iteration: Callable[[PivotProgress], None],
        checkpointing: bool = False,
    ) -> Pivots:
        checkpointing |= self._short
        pivots, self._short = find_pivots(
            self.model, self.conditioning, inversion, options, on_iteration, checkpointing
        )
        return pivots

    def fuse(self, start: Tensor, sigmas: Sequence[float], concept: ConceptPrompt, fusion: Fusion) -> Tensor:
        prompts = (concept.prompt, self.conditioning, self.conditioning)
        guider = pair_guider(self.model, fusion, *prompts, name="Exemplar Translate")
        return sampling.run_sampler(guider, start, sample_ddim, torch.tensor(sigmas), self.on_step)


if TYPE_CHECKING:
    _: type[TranslationHost] = ComfyTranslator
