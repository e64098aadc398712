"""Controlled pairs in ComfyUI: a GUIDER for SamplerCustomAdvanced.

Target, source and their unconditional rows are asked for in one batch; the rows of the source are given the source's
latents on the way into the model. ComfyUI may still split that batch (short memory, prompts of different length): it
then happens to run the source first, or the guider sees that it did not, and from then on asks for the source by itself
first and carries its queries and keys over.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.conds
import comfy.patcher_extension
import comfy.samplers
import torch
from torch import Tensor

from ...attention.call import CROSS, SELF
from ...attention.control import SOURCE, SOURCE_UNCONDITIONAL, TARGET, ControlledAttention, PromptControl
from ...attention.word_maps import BlendWords
from ...diffusion.pivot import Pivots
from ...diffusion.replay import Replay
from ...pipelines.vct_pair import ControlledRun
from . import edits
from . import model as host

log = logging.getLogger(__name__)

UNCONDITIONAL = 1
_WRAPPER = comfy.patcher_extension.WrappersMP.APPLY_MODEL


@dataclass(frozen=True, eq=False)
class PairSettings:
    """What a controlled pair is made of.

    :param replay: the source's way when it is known; None samples the source as well.
    :param pivots: unconditional contexts for each sigma, in place of the negative prompt's.
    :param words: words of a local blend.
    :param mask: (1 or B, H, W), where the target may differ.
    :param both: return the sources behind the targets (without a replay).
    """

    control: PromptControl
    replay: Replay | None = None
    pivots: Pivots | None = None
    words: BlendWords | None = None
    mask: Tensor | None = None
    both: bool = False


class ControlGuider(comfy.samplers.CFGGuider):
    """Classifier-free guidance on a pair of streams, the target's attention under control."""

    def __init__(self, model: Any, settings: PairSettings) -> None:
        super().__init__(model)
        self.settings = settings
        self._infos = host.attention_layers(model)
        self._layers = [info.layer for info in self._infos]
        self._run: ControlledRun | None = None
        self._apart = False

    def set_prompts(self, target: list, negative: list, source: list) -> None:
        """CONDITIONING of the target, of both unconditional predictions, and of the source.

        :raises ValueError: a prompt for a part of the picture.
        """
        for conditioning in (target, negative, source):
            if any("area" in options for _, options in conditioning):
                raise ValueError(
                    "Attention control pairs whole pictures, but a CONDITIONING is for an area only; use "
                    "Conditioning (Set Mask) instead of an area."
                )
        self.inner_set_conds({"positive": target, "negative": negative, "source": source})

    def sample(
        self, noise, latent_image, sampler, sigmas, denoise_mask=None, callback=None, disable_pbar=False, seed=None
    ):
        if len(sigmas) < 2:
            return latent_image
        settings, pictures = self.settings, latent_image.shape[0]
        if settings.replay is not None:
            _check_start(settings.replay, latent_image, sigmas)
        self._run = ControlledRun(
            settings.control, sigmas.tolist(), self._infos, settings.replay, settings.words, settings.mask
        )
        self._apart = any("control" in c for conds in self.original_conds.values() for c in conds)
        if settings.replay is None:
            noise, latent_image = torch.cat([noise, noise]), torch.cat([latent_image, latent_image])
            if denoise_mask is not None and len(denoise_mask) == pictures > 1:
                denoise_mask = torch.cat([denoise_mask, denoise_mask])
            callback = callback if settings.both else _targets_only(callback, pictures)
        try:
            samples = super().sample(noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed)
        finally:
            self._run = None
        return samples if settings.both else samples[:pictures]

    def predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006  ComfyUI's signature
        def predict(target: Tensor, source: Tensor, sigma: float, edit: ControlledAttention):
            return self._predict(target, source, timestep[: len(target)], model_options, edit)

        return self._run.denoise(x, float(timestep.reshape(-1)[0]), predict)

    def _predict(
        self, target: Tensor, source: Tensor, timestep: Tensor, model_options: dict, edit: ControlledAttention
    ):
        negative = self._negative(float(timestep[0]), target.device)
        conds = {
            TARGET: self.conds["positive"],
            UNCONDITIONAL: negative,
            SOURCE: self.conds["source"],
            SOURCE_UNCONDITIONAL: negative,
        }
        if math.isclose(self.cfg, 1.0) and not model_options.get("disable_cfg1_optimization", False):
            conds[UNCONDITIONAL] = conds[SOURCE_UNCONDITIONAL] = None
        if self.settings.replay is not None:
            conds[SOURCE_UNCONDITIONAL] = None
        options = edits.with_edit(model_options, edit, self._layers, (SELF, CROSS))

        def ask(branches: Sequence[int], x: Tensor, options: dict) -> list[Tensor]:
            asked = [conds[branch] if branch in branches else None for branch in sorted(conds)]
            return comfy.samplers.calc_cond_batch(self.inner_model, asked, x, timestep, options)

        sources, found = (SOURCE, SOURCE_UNCONDITIONAL), None
        if not self._apart:
            found = ask(tuple(conds), target, _with_latents(options, sources, source))
            if edit.source.missed:
                log.info("The source and the target of attention control run one after the other: the batch was split.")
                self._apart = True
                edit.begin_anew()
        if self._apart:
            first = ask(sources, source, options)
            found = [*ask((TARGET, UNCONDITIONAL), target, options)[:SOURCE], *first[SOURCE:]]
        answer = self._guided(found[TARGET], found[UNCONDITIONAL], conds, target, timestep, model_options)
        if self.settings.replay is not None:
            return answer, None
        return answer, self._guided(
            found[SOURCE],
            found[SOURCE_UNCONDITIONAL],
            {TARGET: conds[SOURCE], UNCONDITIONAL: negative},
            source,
            timestep,
            model_options,
        )

    def _guided(self, cond, uncond, conds, x, timestep, model_options) -> Tensor:
        """ComfyUI's own guidance, with whatever other packs hooked into it."""
        positive, negative = conds[TARGET], conds[UNCONDITIONAL]
        for function in model_options.get("sampler_pre_cfg_function", []):
            cond, uncond = function(
                {
                    "conds": [positive, negative],
                    "conds_out": [cond, uncond],
                    "cond_scale": self.cfg,
                    "timestep": timestep,
                    "input": x,
                    "sigma": timestep,
                    "model": self.inner_model,
                    "model_options": model_options,
                }
            )[:2]
        return comfy.samplers.cfg_function(
            self.inner_model,
            cond,
            uncond,
            self.cfg,
            x,
            timestep,
            model_options=model_options,
            cond=positive,
            uncond=negative,
        )

    def _negative(self, sigma: float, device: torch.device) -> list[dict]:
        """The negative prompt, or this sigma's pivot in its place."""
        pivots = self.settings.pivots
        if pivots is None:
            return self.conds["negative"]
        context = comfy.conds.CONDCrossAttn(pivots.at(sigma)[None].to(device))
        return [{**c, "model_conds": {**c["model_conds"], "c_crossattn": context}} for c in self.conds["negative"]]


def _with_latents(options: dict[str, Any], branches: Sequence[int], latents: Tensor) -> dict[str, Any]:
    """Model options under which the rows of some branches are given other latents."""

    def wrapper(
        executor: Any,
        x: Tensor,
        t: Tensor,
        c_concat=None,
        c_crossattn=None,
        control=None,
        transformer_options: dict | None = None,
        **kw: Any,
    ):
        entries = transformer_options["cond_or_uncond"]
        chunks = [
            latents.to(chunk) if branch in branches else chunk
            for branch, chunk in zip(entries, x.chunk(len(entries)), strict=True)
        ]
        return executor(torch.cat(chunks), t, c_concat, c_crossattn, control, transformer_options, **kw)

    inner = options["transformer_options"]
    present = inner.get("wrappers", {})
    own = {**present.get(_WRAPPER, {}), host.KEY: [*present.get(_WRAPPER, {}).get(host.KEY, []), wrapper]}
    return {**options, "transformer_options": {**inner, "wrappers": {**present, _WRAPPER: own}}}


def _targets_only(callback: Callable | None, pictures: int) -> Callable | None:
    """A sampler's callback that sees the target stream."""
    if callback is None:
        return None
    return lambda step, denoised, x, total: callback(step, denoised[:pictures], x[:pictures], total)


def _check_start(replay: Replay, latent: Tensor, sigmas: Tensor) -> None:
    """:raises ValueError: a latent or levels that the source's way does not fit."""
    if tuple(latent.shape[-2:]) != replay.size:
        height, width = replay.size
        raise ValueError(
            f"The latent to sample is {latent.shape[-1]} x {latent.shape[-2]}, but the source was inverted at {width} "
            f"x "
            f"{height}. Sample the latent that DDIM Inversion gave, or invert at this size."
        )
    if latent.shape[0] % replay.pictures:
        raise ValueError(
            f"The latent batch has {latent.shape[0]} picture(s), but {replay.pictures} were inverted; use as many, or "
            f"a "
            "multiple."
        )
    first, top = float(sigmas[0]), replay.levels[0]
    if abs(first - top) > 0.02 * top:
        raise ValueError(
            f"Sampling starts at sigma {first:.3f}, but the source was inverted up to {top:.3f}. Use the sigmas output "
            f"of "
            "DDIM Inversion."
        )


def text_columns(conditioning: list, name: str) -> int:
    """Number of columns of a CONDITIONING.

    :raises ValueError: none, or prompts of different lengths in one.
    """
    lengths = {context.shape[1] for context, _ in conditioning}
    if len(lengths) != 1:
        raise ValueError(f"The {name} CONDITIONING has prompts of {sorted(lengths)} columns; one length is needed.")
    return lengths.pop()


def first_column(concept: list, source: list) -> int:
    """1 when both prompts begin with the same mark, else 0."""
    one, other = concept[0][0][:, :1], source[0][0][:, :1]
    return int(one.shape == other.shape and bool((one - other).abs().max() <= 1e-3 * other.abs().max().clamp_min(1e-6)))
