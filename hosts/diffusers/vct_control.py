"""Controlled pairs on the diffusers host."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...attention.call import CROSS, SELF, UNCONDITIONAL, batch_layout
from ...attention.control import SOURCE, SOURCE_UNCONDITIONAL, TARGET, ControlledAttention
from ...diffusion.sampling import guide, sample_ddim
from ...pipelines.vct_pair import ControlledRun
from .denoiser import UNetDenoiser

if TYPE_CHECKING:
    from .checkpoint import StandaloneModel

#: A text context (B or 1, tokens, width), or one for each sigma.
Context = Tensor | Callable[[float], Tensor]


class PairDenoiser(UNetDenoiser):
    """A UNet under several prompts at once.

    :param contexts: each branch's text; all with the same number of tokens.
    :param pooled: SDXL's pooled prompts (1, P) of branches that do not have the empty prompt's.
    """

    def __init__(
        self, model: StandaloneModel, contexts: Mapping[int, Context], pooled: Mapping[int, Tensor] | None = None
    ) -> None:
        super().__init__(model)
        self.contexts, self.pooled = dict(contexts), dict(pooled or {})
        self._sigma = 0.0

    def at(self, sigma: float) -> PairDenoiser:
        """The denoiser at a sigma, for contexts that depend on it."""
        self._sigma = sigma
        return self

    def context(self, branches: Sequence[int], rows: int) -> Tensor:
        of_row, pictures = batch_layout(branches, rows)
        texts = {}
        for branch in set(branches):
            text = self.contexts[branch]
            text = text if isinstance(text, Tensor) else text(self._sigma)
            texts[branch] = (text if text.ndim == 3 else text[None]).to(self.model.context)
        if len({text.shape[1] for text in texts.values()}) > 1:
            sizes = {branch: text.shape[1] for branch, text in texts.items()}
            raise ValueError(
                f"The prompts have different numbers of tokens, by branch {sizes}; pad them to one number."
            )
        rows_of = zip(of_row, pictures, strict=True)
        return torch.stack([texts[branch][picture % len(texts[branch])] for branch, picture in rows_of])

    def added_conditions(self, branches: Sequence[int], x: Tensor) -> dict[str, Tensor] | None:
        added = super().added_conditions(branches, x)
        if added is None or not self.pooled:
            return added
        embeds = added["text_embeds"].clone()
        for row, branch in enumerate(batch_layout(branches, len(x))[0]):
            if branch in self.pooled:
                embeds[row] = self.pooled[branch][0].to(embeds)
        return {**added, "text_embeds": embeds}


def sample_pair(
    denoiser: PairDenoiser,
    run: ControlledRun,
    start: Tensor,
    callback: Callable[[dict[str, Any]], None] | None = None,
) -> Tensor:
    """DDIM of a controlled pair down ``run.sigmas``, classifier-free guidance on both streams.

    :param start: (B, C, h, w) at ``run.sigmas[0]``, the start of both streams.
    :returns: (B, C, h, w) the targets, or with no replay (2B, C, h, w), targets and then sources.
    """
    layers = [info.layer for info in denoiser.layers]
    cfg, replay = run.fusion.cfg, run.fusion.replay

    def predict(target: Tensor, source: Tensor, sigma: float, edit: ControlledAttention) -> tuple[Tensor, ...]:
        parts = {SOURCE: source, TARGET: target}
        if cfg != 1:
            unconditional = {UNCONDITIONAL: target}
            if replay is None:
                unconditional[SOURCE_UNCONDITIONAL] = source
            parts = unconditional | parts
        x, branches = torch.cat(list(parts.values())), tuple(parts)
        with denoiser.at(sigma).edited(edit, layers, (SELF, CROSS)):
            # on the CPU: the denoiser asks for it once more, and a device would be waited for
            answers = denoiser(x, torch.tensor([sigma]), branches).chunk(len(parts))
        estimates = dict(zip(branches, answers, strict=True))

        def guided(conditional: int, unconditional: int) -> Tensor:
            if cfg == 1:
                return estimates[conditional]
            return guide(estimates[conditional], estimates[unconditional], cfg)

        answer = guided(TARGET, UNCONDITIONAL)
        return (answer,) if replay is not None else (answer, guided(SOURCE, SOURCE_UNCONDITIONAL))

    x = start if replay is not None else torch.cat([start, start])
    levels = torch.tensor(run.sigmas)
    return sample_ddim(
        lambda x, sigma: run.denoise(x, float(sigma[0]), predict), x, levels, callback=callback, disable=True
    )
