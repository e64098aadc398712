"""ComfyUI as a host of the whole translation (``pipelines.vct.TranslationHost``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...attention.control import PromptControl
from ...diffusion.concept import ConceptOptions, ConceptProgress
from ...diffusion.concept_prompt import ConceptPrompt
from ...diffusion.inversion import Inversion
from ...diffusion.pivot import PivotOptions, PivotProgress, Pivots
from ...diffusion.replay import Replay
from ...diffusion.sampling import sample_ddim
from ...diffusion.schedule import InversionPlan
from . import sampling
from .gradients import gradients
from .host import ComfyHost
from .vct_concept import ConceptLearner, conditioning_of
from .vct_control import ControlGuider, PairSettings, first_column, text_columns
from .vct_pivot import find_pivots


class ComfyTranslator(ComfyHost):
    """One MODEL with its CLIP, VAE and empty prompt.

    :param on_step: called with the clean estimate after every step of an inversion or a fusion.
    :param checkpointing: learn with less memory and more time.
    """

    def __init__(
        self,
        model: Any,
        clip: Any,
        vae: Any,
        on_step: Callable[[Tensor], None] | None = None,
        checkpointing: bool = False,
    ) -> None:
        empty = clip.encode_from_tokens_scheduled(clip.tokenize(""))
        super().__init__(model, empty, vae, on_step)
        self.clip, self.checkpointing = clip, checkpointing
        self.columns = text_columns(empty, "empty")

    def concept(self, conditioning: list, vectors: int) -> ConceptPrompt:
        """A CONDITIONING as a concept of that many vectors."""
        columns = text_columns(conditioning, "concept")
        return ConceptPrompt(conditioning, columns, vectors, first_column(conditioning, self.conditioning))

    def learn(
        self,
        latents: Tensor,
        vectors: int,
        word: str,
        options: ConceptOptions,
        seed: int,
        on_update: Callable[[ConceptProgress], None],
    ) -> ConceptPrompt:
        with gradients():
            learner = ConceptLearner(self.model, self.clip, latents, word, vectors, options, seed, self.checkpointing)
            state = learner.learn(learner.start(), on_update)
            tokens = learner.text.tokens(state.vectors)
        return self.concept(conditioning_of(self.clip, tokens), vectors)

    def find_pivots(
        self, inversion: Inversion, options: PivotOptions, on_iteration: Callable[[PivotProgress], None]
    ) -> Pivots:
        return find_pivots(self.model, self.conditioning, inversion, options, on_iteration, self.checkpointing)

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
        guider = ControlGuider(self.model, PairSettings(control, replay, pivots, mask=mask))
        guider.set_prompts(concept.prompt, self.conditioning, self.conditioning)
        guider.set_cfg(guidance)
        return sampling.run_sampler(guider, start, sample_ddim, torch.tensor(plan.sigmas), self.on_step)
