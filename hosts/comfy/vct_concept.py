"""Concept inversion on ComfyUI's MODEL, CLIP and VAE."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...color.batches import Batches
from ...diffusion.concept import (
    ConceptProgress,
    ConceptState,
    draw_copies,
    initial_vectors,
    learn_concept,
)
from ...diffusion.learning import HALF_SCALE, drain_or_spare
from ...diffusion.sampling import guide, sample_ddim
from ...diffusion.schedule import inversion_plan
from ...pipelines.vct_concept import LearningSettings
from . import model as host
from .borrowed import BorrowedNetworks, as_the_node_runs, gradients
from .gradients import DifferentiableText, DifferentiableUNet, clone_for_autograd
from .memory import out_of_memory
from .runs import stop_if_canceled

#: Steps and guidance of the pictures that show how far learning is.
SAMPLE_STEPS, SAMPLE_GUIDANCE = 20, 7.5


class ConceptLearner:
    """A MODEL and a CLIP, and what is learned through them; see :func:`learning`, which makes it.

    :param latents: (P, C, h, w) in the model's latent scale, made by a node.
    :param networks: holds their weights.
    :raises ValueError: too many vectors, or what the text encoder refuses.
    """

    def __init__(
        self, model: Any, clip: Any, latents: Tensor, settings: LearningSettings, networks: BorrowedNetworks
    ) -> None:
        self.model, self.settings, self.options, self.networks = model, settings, settings.concept, networks
        self.text = DifferentiableText(clip, settings.word, networks)
        if settings.vectors > self.text.room:
            raise ValueError(
                f"vectors is {settings.vectors}, expected 1 to {self.text.room}, what this text encoder has room for."
            )
        shape = (min(self.options.rows, self.options.accumulation), *latents.shape[1:])
        self.unet = DifferentiableUNet(model, None, settings.gradient_checkpointing, shape, networks)
        self.device = self.unet.device
        self.latents = clone_for_autograd(latents.float(), self.device)
        self.table = clone_for_autograd(host.sigma_table(model))
        if self.unet.half:
            self.options = replace(self.options, gradient_scale=HALF_SCALE)

    def start(self) -> ConceptState:
        """The initial word's own vectors."""
        return ConceptState.fresh([initial_vectors(words, self.settings.vectors) for words in self.text.word_rows()])

    def learn(self, state: ConceptState, on_update: Callable[[ConceptProgress], None]) -> ConceptState:
        """Take the missing updates; what ``on_update`` raises ends it."""
        device = self.device
        state = replace(
            state,
            vectors=tuple(clone_for_autograd(v, device) for v in state.vectors),
            first=tuple(clone_for_autograd(m, device) for m in state.first),
            second=tuple(clone_for_autograd(m, device) for m in state.second),
        )

        def start() -> Generator[ConceptProgress, None, ConceptState]:
            copies = draw_copies(self.latents, self.table, self.options.accumulation, self.settings.seed, state.updates)
            return learn_concept(self.unet, self.text, state, copies, self.options, out_of_memory)

        return drain_or_spare(start, on_update, self.unet.spare, out_of_memory)

    @torch.no_grad()
    def sample(self, state: ConceptState) -> Tensor:
        """(1, C, h, w): a picture of the concept as it is now, from the seed's noise."""
        vectors = [clone_for_autograd(v, self.device) for v in state.vectors]
        concept, nothing = self.text(vectors), self.text.nothing()
        plan = inversion_plan(self.table, SAMPLE_STEPS, SAMPLE_STEPS)
        noise = torch.randn(self.latents[:1].shape, generator=torch.Generator().manual_seed(self.settings.seed))
        both = [torch.cat([a, b]) for a, b in zip(nothing, concept, strict=True)]
        rows = Batches(2, out_of_memory, "prediction(s)")

        def guided(x: Tensor, sigma: Tensor) -> Tensor:
            twice, sigmas = torch.cat([x, x]), sigma.repeat(2)
            asked = rows.of(2, lambda part: self.unet(twice[part], sigmas[part], *(each[part] for each in both)))
            plain, steered = torch.cat([answer for _, answer in asked]).chunk(2)
            return guide(steered, plain, SAMPLE_GUIDANCE)

        return sample_ddim(guided, noise.to(self.device) * plan.sigmas[0], torch.tensor(plan.sigmas), disable=True)

    def picture(self, state: ConceptState, vae: Any) -> Tensor:
        """(1, H, W, 3) on the CPU: the sample, decoded."""
        latent = self.sample(state)
        self.networks.let_go()  # the VAE may need their place
        with as_the_node_runs():
            return vae.decode(self.model.model.process_latent_out(latent)).cpu()

    def conditioning(self, clip: Any, state: ConceptState) -> list:
        """The concept as a prompt of its own."""
        return conditioning_of(clip, self.text.tokens(state.vectors))


@contextmanager
def learning(model: Any, clip: Any, latents: Tensor, settings: LearningSettings) -> Iterator[ConceptLearner]:
    """Within this context a concept can be learned; afterwards nothing is held for it.

    Its parameters are those of :class:`ConceptLearner`.
    """
    with gradients(), BorrowedNetworks() as networks:
        yield ConceptLearner(model, clip, latents, settings, networks)


def encode_pictures(model: Any, vae: Any, pictures: Tensor) -> Tensor:
    """(P, H, W, 3) in 0..1 -> (P, C, h, w) in the model's latent scale, one picture at a time."""
    latents = []
    for picture in pictures:
        stop_if_canceled()
        latents.append(vae.encode(picture[None]))
    return model.model.process_latent_in(torch.cat(latents))


def conditioning_of(clip: Any, tokens: dict[str, list]) -> list:
    """A CONDITIONING from tokens, by the CLIP itself: what its CLIP Text Encode makes of ``embedding:name``."""
    return clip.encode_from_tokens_scheduled(tokens)
