"""Controlled pairs in ComfyUI: a GUIDER for SamplerCustomAdvanced.

Target, source and their unconditional rows are asked for in one batch; the rows of the source get the source's latents
on the way into the model. ComfyUI may still split that batch (short memory, prompts of different length): it then
happens to run the source first, or the guider sees that it did not, and from then on asks for the source by itself
first and carries its queries and keys over.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection
from typing import Any

import comfy.conds
import comfy.patcher_extension
import comfy.samplers
import torch
from torch import Tensor

from ...attention.call import CROSS, SELF, UNCONDITIONAL
from ...attention.constants import Constants
from ...attention.control import SOURCE, SOURCE_UNCONDITIONAL, TARGET, ControlledAttention
from ...attention.layers import LayerInfo
from ...diffusion.replay import Replay
from ...pipelines.prompt_control import PromptControlSettings, blend_words, prompt_control
from ...pipelines.vct_pair import ControlledRun, Fusion
from . import edits
from . import model as host
from .fits import foreign_levels
from .prompts import prompt_tokens, text_columns
from .room import Holds, queries_and_keys
from .rows import Prediction, branches_of
from .runs import read_levels
from .sampling_checks import check_run

log = logging.getLogger(__name__)

_WRAPPER = comfy.patcher_extension.WrappersMP.APPLY_MODEL

#: Options under which a sampler's guidance has functions of other nodes, which may ask the model by themselves.
_GUIDANCE = ("sampler_pre_cfg_function", "sampler_cfg_function", "sampler_post_cfg_function")

#: What is sampled beside what, and under which prompts: branch -> ComfyUI's conditions, None where it does not run.
Conditions = dict[int, list[dict] | None]


def pair_guider(
    model: Any,
    fusion: Fusion,
    target: list,
    negative: list,
    source: list,
    *,
    both: bool = False,
    name: str = "Concept Fusion",
) -> ControlGuider:
    """A guider that draws a target beside a source.

    :param target: CONDITIONING of the target; ``negative`` of both unconditional predictions, ``source`` of the source.
    :param both: return the sources behind the targets (without a replay).
    :param name: of the node, for messages.
    :raises ValueError: a prompt for a part of the picture.
    """
    guider = ControlGuider(model, fusion, both, name)
    guider.set_prompts(target, negative, source)
    guider.set_cfg(fusion.cfg)
    return guider


def prompts_fusion(
    model: Any, clip: Any, source: str, target: str, settings: PromptControlSettings
) -> tuple[Fusion, list, list]:
    """What two texts' prompts have to do with one another, but for an inverted picture.

    :returns: (the fusion, CONDITIONING of the target, of the source).
    :raises ValueError: see ``pipelines.prompt_control``.
    """

    def read(text: str) -> Any:
        return prompt_tokens(clip, text)

    encoded = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (source, target)]
    columns = (text_columns(encoded[0], "source"), text_columns(encoded[1], "target"))
    control = prompt_control(read, source, target, columns, settings, host.attention_layers(model))
    words = blend_words(read, source, target, settings)
    return Fusion(control, settings.cfg, words=words), encoded[1], encoded[0]


class ControlGuider(comfy.samplers.CFGGuider):
    """Classifier-free guidance on a pair of streams, the target's attention under control.

    What is kept while it samples lives for one run (``_run``, ``_sent``), and what an edit keeps for one prediction.
    """

    def __init__(self, model: Any, fusion: Fusion, both: bool = False, name: str = "Concept Fusion") -> None:
        placed = edits.PlacedEdit(name, whole_pictures=True, check=self._check, holds=_source_features(fusion))
        super().__init__(edits.add_edit(model, placed))
        self.fusion, self.both, self.name = fusion, both, name
        self._infos = host.attention_layers(model)
        self._layers = edits.layer_widths(model)
        self._run: ControlledRun | None = None
        self._apart, self._rows = False, 0
        self._sent = Constants()

    def set_prompts(self, target: list, negative: list, source: list) -> None:
        """CONDITIONING of the target, of both unconditional predictions, and of the source.

        :raises ValueError: a prompt for a part of the picture.
        """
        for conditioning in (target, negative, source):
            if any("area" in options for _, options in conditioning):
                raise ValueError(
                    f"{self.name}: conditioning: found a prompt for an area of the picture only, expected prompts for "
                    "the whole picture; use Conditioning (Set Mask) instead of an area."
                )
        self.inner_set_conds({"positive": target, "negative": negative, "source": source})

    def sample(
        self, noise, latent_image, sampler, sigmas, denoise_mask=None, callback=None, disable_pbar=False, seed=None
    ):
        check_run(self.model_patcher, noise, latent_image, sampler, sigmas, self.name, falling=True)
        if len(sigmas) < 2:
            return latent_image
        pictures, replay = latent_image.shape[0], self.fusion.replay
        if replay is not None:
            _check_start(replay, latent_image, sigmas, self.name)
        self._run = ControlledRun(self.fusion, sigmas.cpu().tolist(), self._infos)
        self._rows = pictures if replay is not None else 2 * pictures
        self._apart = any("control" in c for conds in self.original_conds.values() for c in conds)
        if replay is None:
            noise, latent_image = torch.cat([noise, noise]), torch.cat([latent_image, latent_image])
            if denoise_mask is not None and len(denoise_mask) == pictures > 1:
                denoise_mask = torch.cat([denoise_mask, denoise_mask])
            callback = callback if self.both else _targets_only(callback, pictures)
        try:
            samples = super().sample(noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed)
        finally:
            self._run = None
            self._sent.clear()
        return samples if self.both else samples[:pictures]

    def _check(self, run: edits.Sampling) -> None:
        """:raises ValueError: context windows, or a noise mask on a picture that comes noised."""
        run.refuse_windows(
            f"{self.name} pairs all pictures of a batch with their sources at once",
            "Take the context windows off the MODEL.",
        )
        replay = self.fusion.replay
        if replay is None:
            return
        run.refuse_mask(self.name, "mask")
        other = foreign_levels(self.model_patcher, replay.levels)
        if other is not None:
            run.run.warn(f"{self.name}: {other}")

    def predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006  ComfyUI's signature
        if self._run is None:
            raise ValueError(
                f"{self.name} is a guider that samples by itself; another guider asks it for single predictions. "
                "Connect it to the sampler directly."
            )
        if x.shape[0] != self._rows:
            raise ValueError(
                f"{self.name} can't work with a sampler that asks for {x.shape[0]} latents at once where {self._rows} "
                "are sampled: each belongs to a source. Use another sampler."
            )
        options = model_options.get("transformer_options", {})
        levels, _ = read_levels(options, timestep)
        if any(level != levels[0] for level in levels):
            raise ValueError(
                f"{self.name} can't work with a sampler that has pictures at different noise levels in one batch. Use "
                "another sampler."
            )

        def predict(target: Tensor, source: Tensor, sigma: float, edit: ControlledAttention):
            conditions, asked = self._conditions(sigma, model_options), timestep
            if len(timestep) != len(target):
                asked, run = timestep[: len(target)], options.get(host.KEY, {}).get(host.RUN)
                if run is not None:
                    run.know(asked, levels[: len(target)])
            return self._predict((target, source), asked, conditions, model_options, edit)

        return self._run.denoise(x, levels[0], predict)

    def _predict(
        self,
        streams: tuple[Tensor, Tensor],
        timestep: Tensor,
        conditions: Conditions,
        model_options: dict,
        edit: ControlledAttention,
    ) -> tuple[Tensor, ...]:
        """Clean estimates of the target, and of the source where there is no replay, (B, C, h, w) each.

        :param streams: latents of the target and of the source.
        """
        target, source = streams
        hooked = any(name in model_options for name in _GUIDANCE)
        edit.source.keep_all = hooked
        options = self._under(model_options, edit, conditions, target)

        def ask(branches: Collection[int], x: Tensor, options: dict) -> dict[int, Tensor]:
            # ComfyUI calls a list's places the branches
            asked = [conditions[branch] if branch in branches else None for branch in sorted(conditions)]
            answers = comfy.samplers.calc_cond_batch(self.inner_model, asked, x, timestep, options)
            return {branch: answers[branch] for branch in branches}

        sources, estimates = (SOURCE, SOURCE_UNCONDITIONAL), {}
        if not self._apart:
            estimates = ask(conditions, target, _with_latents(options, sources, source, self.name))
            if edit.source.missed:
                log.info("The source and the target of attention control run one after the other: the batch was split.")
                self._apart = True
                edit.clear()
        if self._apart:
            estimates = ask(sources, source, options)
            estimates |= ask((TARGET, UNCONDITIONAL), target, options)

        # what guidance asks of the model by itself it asks under the same control, with the source as it was seen here
        again = self._under(model_options, edit.repeated(), conditions, target) if hooked else model_options

        def guided(conditional: int, unconditional: int, x: Tensor) -> Tensor:
            prompts = (conditions[conditional], conditions[unconditional])
            answers = (estimates[conditional], estimates[unconditional])
            return self._guided(answers, prompts, x, timestep, again)

        answer = guided(TARGET, UNCONDITIONAL, target)
        return (answer,) if self.fusion.replay is not None else (answer, guided(SOURCE, SOURCE_UNCONDITIONAL, source))

    def _under(
        self, model_options: dict, edit: ControlledAttention, conditions: Conditions, target: Tensor
    ) -> dict[str, Any]:
        """Model options of one prediction under control; the pictures are the target's, whatever a sampler carries."""
        placed = edits.PlacedEdit(self.name, edit, self._layers, (SELF, CROSS), whole_pictures=True, alike=True)
        before = model_options.get("transformer_options", {}).get(host.KEY, {}).get(host.PREDICTION)
        prediction = Prediction(
            number=before.number if before is not None else 0,
            branches=branches_of(conditions),
            pictures=len(target),
            size=(target.shape[-2], target.shape[-1]),
        )
        return edits.with_edit(model_options, placed, prediction)

    def _conditions(self, sigma: float, model_options: dict) -> Conditions:
        """The prompts of every branch at a sigma."""
        negative = self._negative(sigma)
        if math.isclose(self.cfg, 1.0) and not model_options.get("disable_cfg1_optimization", False):
            negative = None
        return {
            TARGET: self.conds["positive"],
            UNCONDITIONAL: negative,
            SOURCE: self.conds["source"],
            SOURCE_UNCONDITIONAL: negative if self.fusion.replay is None else None,
        }

    def _guided(
        self,
        answers: tuple[Tensor, Tensor],
        prompts: tuple[list[dict] | None, list[dict] | None],
        x: Tensor,
        timestep: Tensor,
        model_options: dict,
    ) -> Tensor:
        """ComfyUI's own guidance, with whatever other packs hooked into it, (B, C, h, w).

        :param answers: conditional and unconditional clean estimate; ``prompts`` are theirs.
        """
        (cond, uncond), (positive, negative) = answers, prompts
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

    def _negative(self, sigma: float) -> list[dict]:
        """The negative prompt, or this sigma's pivot in its place.

        It is where the prompt was: ComfyUI runs prompts on different devices one after the other.
        """
        pivots = self.fusion.pivots
        if pivots is None:
            return self.conds["negative"]

        def replaced(entry: dict) -> dict:
            conds = entry["model_conds"]
            contexts = self._sent.on(conds["c_crossattn"].cond.device, lambda: pivots.contexts, "pivots")
            context = comfy.conds.CONDCrossAttn(contexts[pivots.step(sigma)][None])
            return {**entry, "model_conds": {**conds, "c_crossattn": context}}

        return [replaced(entry) for entry in self.conds["negative"]]


def _source_features(fusion: Fusion) -> Holds:
    """What sources leave for their targets where memory is too short for one call of both."""
    control = fusion.control

    def followed(info: LayerInfo, tokens: int) -> bool:
        chosen = control.self_layers is None or info.layer in control.self_layers
        return chosen and (control.most_queries is None or tokens <= control.most_queries)

    # latents of a run without a replay are targets and sources
    return queries_and_keys(1 if fusion.replay is not None else 0.5, chosen=followed)


def _with_latents(options: dict[str, Any], branches: Collection[int], latents: Tensor, name: str) -> dict[str, Any]:
    """Model options under which the rows of some branches get other latents, (B, C, h, w).

    :param name: of the node, for messages.
    """

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
        entries = (transformer_options or {}).get("cond_or_uncond", ())
        if tuple(x.shape) != (len(entries) * latents.shape[0], *latents.shape[1:]):
            raise ValueError(
                f"{name} can't work here: a call has latents of {tuple(x.shape)}, which are not {len(entries)} "
                f"prediction(s) of {tuple(latents.shape)}: another node splits or joins the batch, or works in tiles. "
                "Take what does that off this MODEL."
            )
        chunks = [
            latents.to(chunk) if branch in branches else chunk
            for branch, chunk in zip(entries, x.chunk(len(entries)), strict=True)
        ]
        return executor(torch.cat(chunks), t, c_concat, c_crossattn, control, transformer_options, **kw)

    inner = options["transformer_options"]
    present = inner.get("wrappers", {})
    wrappers = {**present.get(_WRAPPER, {}), host.KEY: [*present.get(_WRAPPER, {}).get(host.KEY, []), wrapper]}
    return {**options, "transformer_options": {**inner, "wrappers": {**present, _WRAPPER: wrappers}}}


def _targets_only(callback: Callable | None, pictures: int) -> Callable | None:
    """A sampler's callback that sees the target stream."""
    if callback is None:
        return None
    return lambda step, denoised, x, total: callback(step, denoised[:pictures], x[:pictures], total)


def _check_start(replay: Replay, latent: Tensor, sigmas: Tensor, node: str) -> None:
    """:raises ValueError: a latent or levels that the source's way does not fit."""
    if tuple(latent.shape[-2:]) != replay.size:
        height, width = replay.size
        raise ValueError(
            f"{node}: latent: found one of {latent.shape[-1]} x {latent.shape[-2]}, expected {width} x {height}, as "
            "the source was inverted; sample the latent that DDIM Inversion gave, or invert at this size."
        )
    if latent.shape[0] % replay.pictures:
        raise ValueError(
            f"{node}: latent: found {latent.shape[0]} picture(s), expected {replay.pictures}, as were inverted, or a "
            "multiple."
        )
    first, top = float(sigmas[0]), replay.levels[0]
    if abs(first - top) > 0.02 * top:
        raise ValueError(
            f"{node}: sigmas: found a first level of {first:.3f}, expected {top:.3f}, up to which the source was "
            "inverted; use the sigmas output of DDIM Inversion."
        )
