"""Multi-concept inversion: a picture's concept as several word vectors, learned with everything else frozen.

Cheng et al., ICCV 2023, arXiv 2307.14352, section 3.2 (VCT), after textual inversion (Gal et al., ICLR 2023,
arXiv 2208.01618): the noise in noised copies of the picture is predicted under a prompt that consists of the vectors,
and the error is carried back through the network and the text encoder to the vectors alone. The released program adds,
when asked, the L1 distance of the predicted clean latent.

Left out on purpose: the released program samples the autoencoder's posterior anew for every item, so that it encodes
one picture hundreds of times; here every distinct picture (and its mirror image) is encoded once, to the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from ..color.batches import Batches, freed
from ..settings import Settings, setting
from .sampling import to_eps

#: What a prompt turns into: (1, tokens, width), and for SDXL the pooled (1, P). Differentiable in the vectors.
Encode = Callable[[Sequence[Tensor]], tuple[Tensor, ...]]

#: ``predict(x, sigma, *encoded) -> clean estimate``: x (B, C, h, w), sigma (B,), differentiable in what was encoded.
Predict = Callable[..., Tensor]


@dataclass(frozen=True)
class ConceptOptions(Settings):
    """How the vectors are learned. The defaults are the released program's, with the L1 term that its example asks for.

    Its own number of updates is 50; its example takes 500.

    :param scale_rate: multiply the rate by ``accumulation``, as the released program does: 2e-3 with the defaults.
    :param gradient_scale: see ``pivot.PivotOptions``.
    """

    updates: int = setting(
        500,
        "Optimizer steps of the concept, in all. Few leave the word it starts from, many copy the reference. Nothing "
        "is learned where a learned concept is given.",
        low=1,
        high=100000,
        auto=True,
    )
    learning_rate: float = setting(
        5e-4,
        "Learning rate of the concept, for one noised copy; it is multiplied by accumulation, as in the released "
        "program. Low learns slowly, high overshoots.",
        low=1e-6,
        high=1.0,
        step=1e-4,
        round=False,
        advanced=True,
        auto=True,
    )
    accumulation: int = setting(
        4, "Noised copies an update. Few are fast and noisy; many are steady.", low=1, high=64, advanced=True
    )
    scale_rate: bool = True
    l1_weight: float = setting(
        1.0,
        "Weight of the distance between predicted and true picture beside the noise error. 0 is plain textual "
        "inversion and the released program's default, 1 is its example's. High favors the noisiest steps, so "
        "composition over texture.",
        low=0.0,
        high=100.0,
        step=0.1,
        round=0.001,
        advanced=True,
    )
    weight_decay: float = setting(
        1e-2,
        "Pull of the vectors toward 0. Low lets them grow; high keeps them small.",
        low=0.0,
        high=1.0,
        step=0.01,
        round=0.0001,
        advanced=True,
    )
    rows: int = setting(
        4,
        "Noised copies in one call of the model. High is faster, low takes less memory; the result is the same.",
        low=1,
        high=64,
        advanced=True,
    )
    gradient_scale: float = 1.0

    @property
    def rate(self) -> float:
        """AdamW's learning rate."""
        return self.learning_rate * (self.accumulation if self.scale_rate else 1)


@dataclass(frozen=True)
class NoisedCopies:
    """What one update looks at.

    :param clean: (G, C, h, w) latents.
    :param noise: (G, C, h, w), unit variance.
    :param sigmas: (G,) noise levels.
    """

    clean: Tensor
    noise: Tensor
    sigmas: Tensor


@dataclass(frozen=True)
class ConceptState:
    """What learning needs to go on: the vectors, and AdamW's moments.

    :param vectors: one (n, width) float32 for every text encoder.
    :param first, second: moments, shaped as the vectors.
    :param updates: how many were taken.
    """

    vectors: tuple[Tensor, ...]
    first: tuple[Tensor, ...]
    second: tuple[Tensor, ...]
    updates: int = 0

    @classmethod
    def fresh(cls, vectors: Sequence[Tensor]) -> ConceptState:
        """Vectors (n, width) for every text encoder, before the first update."""
        copies = tuple(v.detach().float().clone() for v in vectors)
        return cls(copies, tuple(map(torch.zeros_like, copies)), tuple(map(torch.zeros_like, copies)))


@dataclass(frozen=True)
class ConceptProgress:
    """Where learning is, after each update.

    :param mse, l1: means over the update's copies; ``l1`` is 0 where the term is off.
    :param loss: their weighted sum.
    :param gradients: of each group of vectors, as the optimizer saw them.
    :param state: to go on from.
    :param denoised: (rows, C, h, w) clean estimates of the last call.
    """

    loss: float
    mse: float
    l1: float
    gradients: tuple[Tensor, ...]
    state: ConceptState
    denoised: Tensor


def initial_vectors(words: Tensor, count: int) -> Tensor:
    """(count, width) from the (m, width) token rows of an initial word: vector i takes row floor(i · m / count)."""
    if count < 1 or words.ndim != 2 or not len(words):
        raise ValueError(f"{count} vectors cannot start from a word of shape {tuple(words.shape)}.")
    return torch.stack([words[i * len(words) // count] for i in range(count)]).float()


def draw_copies(
    latents: Tensor, sigma_table: Tensor, accumulation: int, seed: int, first: int = 0
) -> Iterator[NoisedCopies]:
    """Endless updates' worth of noised copies: a picture, a noise level and noise, all uniform.

    Every update has a seed of its own, so learning that is taken up again sees what it would have seen.

    :param latents: (P, C, h, w).
    :param first: number of the first update.
    """
    update = first
    while True:
        generator = torch.Generator().manual_seed((seed * 1_000_003 + update) % 2**63)
        pictures = torch.randint(len(latents), (accumulation,), generator=generator)
        levels = torch.randint(len(sigma_table), (accumulation,), generator=generator)
        noise = torch.randn((accumulation, *latents.shape[1:]), generator=generator)
        clean = torch.stack([latents[picture] for picture in pictures.tolist()])  # an index would be sent
        yield NoisedCopies(clean, noise.to(clean), sigma_table[levels].to(clean.device))
        update += 1


def learn_concept(
    predict: Predict,
    encode: Encode,
    start: ConceptState,
    copies: Iterable[NoisedCopies],
    options: ConceptOptions,
    out_of_memory: Callable[[Exception], bool] = freed,
) -> Generator[ConceptProgress, None, ConceptState]:
    """Concept inversion, one :class:`ConceptProgress` an update; the generator's value is the last state.

    It goes on until ``options.updates`` are taken, those of ``start`` included.
    The text encoder runs once an update, forward and back: gradients gather where its output enters the network.
    Gradients must be allowed where the generator runs, and tensors must not come from inference mode.

    :param copies: what each update looks at, from update ``start.updates`` on.
    :param out_of_memory: whether an error says that memory ran out: then fewer copies are looked at in one call.
    :raises ValueError: a loss that is not finite.
    """
    state, rows = start, Batches(options.rows, out_of_memory, "noised copies")
    vectors = [v.detach().clone().requires_grad_(True) for v in start.vectors]
    optimizer = _optimizer(vectors, start, options)
    for update, batch in zip(range(start.updates, options.updates), copies, strict=False):
        encoded = encode(vectors)
        entering = tuple(e.detach().requires_grad_(True) for e in encoded)
        mse, l1, denoised = _backward(predict, entering, batch, options, rows)
        total = mse + options.l1_weight * l1
        if not isfinite(total):
            raise ValueError(
                f"Concept inversion diverged: the loss of update {update + 1} is {total}. Lower the learning rate, or "
                "run the model in float32."
            )
        used = [
            (e, leaf.grad / options.gradient_scale)
            for e, leaf in zip(encoded, entering, strict=True)
            if leaf.grad is not None and e.requires_grad
        ]
        optimizer.zero_grad()
        torch.autograd.backward([e for e, _ in used], [g for _, g in used], inputs=vectors)
        gradients = tuple(v.grad.detach().clone() for v in vectors if v.grad is not None)
        optimizer.step()
        state = _state(vectors, optimizer, update + 1)
        yield ConceptProgress(total, mse, l1, gradients, state, denoised)
    return state


def _backward(
    predict: Predict, entering: Sequence[Tensor], batch: NoisedCopies, options: ConceptOptions, rows: Batches
) -> tuple[float, float, Tensor]:
    """Gather an update's gradients in what enters the network, some copies at a time.

    :param entering: what the prompt was encoded to, as leaves that gather gradients.
    :returns: (mean squared noise error, mean L1 distance, (rows, C, h, w) clean estimates of the last call).
    """

    def some(part: slice) -> tuple[float, float, Tensor, tuple[Tensor | None, ...]]:
        clean, noise, sigmas = batch.clean[part], batch.noise[part], batch.sigmas[part]
        spread = sigmas.view(-1, 1, 1, 1)
        x = clean + spread * noise
        denoised = predict(x, sigmas, *entering)
        share = len(clean) / len(batch.clean)
        noise_error = (to_eps(x, spread, denoised).float() - noise).pow(2).mean() * share
        loss, distance = noise_error, torch.zeros(())
        if options.l1_weight:
            distance = (denoised.float() - clean).abs().mean() * share
            loss = loss + options.l1_weight * distance
        gradients = torch.autograd.grad(loss * options.gradient_scale, entering, allow_unused=True)
        return float(noise_error.detach()), float(distance.detach()), denoised.detach(), gradients

    mse = l1 = 0.0
    denoised = batch.clean[:0]
    for _, (noise_error, distance, estimates, gradients) in rows.of(len(batch.clean), some):
        mse, l1, denoised = mse + noise_error, l1 + distance, estimates
        for leaf, gradient in zip(entering, gradients, strict=True):
            if gradient is not None:  # all of a call's or none, however memory lasts
                leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient
    return mse, l1, denoised


def _optimizer(vectors: list[Tensor], start: ConceptState, options: ConceptOptions) -> torch.optim.AdamW:
    optimizer = torch.optim.AdamW(vectors, lr=options.rate, weight_decay=options.weight_decay)
    if start.updates:
        for vector, first, second in zip(vectors, start.first, start.second, strict=True):
            optimizer.state[vector] = {
                "step": torch.tensor(float(start.updates)),
                "exp_avg": first.to(vector).clone(),
                "exp_avg_sq": second.to(vector).clone(),
            }
    return optimizer


def _state(vectors: list[Tensor], optimizer: torch.optim.AdamW, updates: int) -> ConceptState:
    moments = [optimizer.state[v] for v in vectors]
    return ConceptState(
        tuple(v.detach().cpu().clone() for v in vectors),
        tuple(m["exp_avg"].cpu().clone() for m in moments),
        tuple(m["exp_avg_sq"].cpu().clone() for m in moments),
        updates,
    )
