"""Instance-aware sampling on a ComfyUI MODEL, for every sampler: phrases with masks ride along in the MODEL's options.

Everything happens inside one call of the network (a wrapper around it), so nothing is remembered between calls, and
what other packs put on the same layers is found there however the nodes were ordered.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import comfy.patcher_extension
import torch
from torch import Tensor

from ...attention.call import CONDITIONAL, CROSS, SELF, Edit, batch_layout
from ...attention.instances import Instance, InstanceEdit, InstanceSettings
from ...attention.layers import Layer
from ...attention.logits import KeepLogits, LogitCache, ReuseLogits, StaleLogits
from ...attention.phrases import find_phrases, split_prompt
from .edits import with_edit
from .model import attention_layers
from .prompts import prompt_tokens
from .sampling import on_sampling

#: Where the phrases stand in a MODEL's transformer options, and a run's cache of logits.
INSTANCES, CACHE = "exemplar_instances", "exemplar_logits"

_Wrappers = comfy.patcher_extension.WrappersMP

log = logging.getLogger(__name__)


def draw_phrases(
    model: Any, clip: Any, masks: Tensor, prompt: str, phrases: Sequence[str], settings: InstanceSettings
) -> tuple[Any, list]:
    """A clone of the MODEL that draws phrases of a prompt into their masks, and the prompt as a CONDITIONING.

    :param masks: (phrases or a multiple of them, H, W) in 0..1: a mask for each phrase, picture after picture.
    :param phrases: as they stand in the prompt; without any (blank lines do not count) its parts between commas.
    :raises ValueError: phrases that the prompt doesn't contain, another number of masks, or an empty mask.
    """
    phrases = [phrase.strip() for phrase in phrases if phrase.strip()]
    names, places, length = phrase_places(clip, prompt, phrases)
    masks = masks.reshape(-1, *masks.shape[-2:])
    if len(masks) % len(names):
        raise ValueError(
            f"There are {len(masks)} mask(s) for {len(names)} phrase(s): {', '.join(names)}. Give each phrase one "
            "mask, in this order; join masks with Batch Masks or chain one of these nodes a phrase."
        )
    settings = settings.scheduled(model.get_model_object("model_sampling").percent_to_sigma)
    instances = [
        Instance(name, tokens, length, masks[i :: len(names)].float().cpu(), settings)
        for i, (name, tokens) in enumerate(zip(names, places, strict=True))
    ]
    positive = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    log.info("Phrases and their tokens: %s.", "; ".join(f"{i.phrase} {list(i.tokens)}" for i in instances))
    return model.clone() if settings.strength == 0 else add_instances(model, instances), positive


def add_instances(model: Any, instances: Sequence[Instance]) -> Any:
    """A clone of the MODEL that draws these phrases into their masks, besides those that it draws already."""
    patched = model.clone()
    options = patched.model_options.setdefault("transformer_options", {})
    options[INSTANCES] = (*options.get(INSTANCES, ()), *instances)
    if not patched.get_wrappers(_Wrappers.DIFFUSION_MODEL, INSTANCES):
        patched.add_wrapper_with_key(_Wrappers.DIFFUSION_MODEL, INSTANCES, _instance_aware(model))
    pictures = {len(instance.masks) for instance in instances} - {1}

    def check(shape: tuple[int, ...], _sigmas: Tensor) -> None:
        wrong = [count for count in pictures if shape[0] % count]
        if wrong:
            raise ValueError(
                f"The latent batch has {shape[0]} picture(s), but a phrase has masks for {wrong[0]}: give each phrase "
                "one mask for all pictures, or one for each."
            )

    return on_sampling(patched, check)


def reuse_logits(model: Any) -> Any:
    """A clone of the MODEL whose attention repeats the published plain sampling.

    Every second call of a run uses the logits of the one before it (``attention.logits.StaleLogits``).
    """
    patched = model.clone()
    layers = _layers(model)

    def start(executor: Any, guider: Any, sigmas: Tensor, extra: dict[str, Any], *args: Any, **kw: Any):
        options = extra["model_options"]
        inner = {**options.get("transformer_options", {}), CACHE: LogitCache()}
        return executor(
            guider, sigmas, {**extra, "model_options": {**options, "transformer_options": inner}}, *args, **kw
        )

    def run(executor: Any, x: Tensor, timesteps: Tensor, context: Any, y: Any, control: Any, options: dict, **kw: Any):
        cache = options.get(CACHE)
        if cache is not None:
            options = _edited(options, StaleLogits(cache), layers, (SELF, CROSS))
        return executor(x, timesteps, context, y, control, options, **kw)

    patched.add_wrapper_with_key(_Wrappers.SAMPLER_SAMPLE, CACHE, start)
    patched.add_wrapper_with_key(_Wrappers.DIFFUSION_MODEL, CACHE, run)
    return patched


def phrase_places(clip: Any, text: str, phrases: Sequence[str]) -> tuple[list[str], list[tuple[int, ...]], int]:
    """Places of phrases in a prompt's conditioning; without any, the prompt's parts between commas are the phrases.

    :returns: (phrases, places, tokens in the conditioning).
    :raises ValueError: phrases that the prompt doesn't contain, named; or an empty part.
    """
    prompt = prompt_tokens(clip, text)
    comma = prompt_tokens(clip, ",").tokens
    if not phrases:
        phrases = [part.strip() for part in text.split(",")]
        if len(comma) == 1:
            places = split_prompt(prompt, comma[0])
            names = phrases if len(phrases) == len(places) else [f"part {i + 1}" for i in range(len(places))]
            return names, places, prompt.length
    return list(phrases), find_phrases(prompt, [prompt_tokens(clip, phrase) for phrase in phrases]), prompt.length


def _layers(model: Any) -> frozenset[Layer]:
    return frozenset(info.layer for info in attention_layers(model))


def _instance_aware(model: Any) -> Callable:
    layers = _layers(model)
    factor = model.model.latent_format.spacial_downscale_ratio

    def run(executor: Any, x: Tensor, timesteps: Tensor, context: Any, y: Any, control: Any, options: dict, **kw: Any):
        sigma = float(options["sigmas"][0])
        acting = [instance for instance in options.get(INSTANCES, ()) if instance.settings.acts(sigma)]
        branches, _ = batch_layout(options.get("cond_or_uncond", [CONDITIONAL]), x.shape[0])
        rows = [i for i, branch in enumerate(branches) if branch == CONDITIONAL]
        if not acting or not rows:
            return executor(x, timesteps, context, y, control, options, **kw)
        edit = InstanceEdit(acting, tuple(side * factor for side in x.shape[-2:]))
        if all(instance.settings.schedule == "one pass" for instance in acting):
            return executor(x, timesteps, context, y, control, _edited(options, edit, layers, (CROSS,)), **kw)
        cache = LogitCache()
        keep = _edited(options, KeepLogits(cache), layers, (SELF, CROSS))
        out = executor(x, timesteps, context, y, _copied(control), keep, **kw)
        # unconditional rows would come out of the second pass as they went in
        part = _Rows(rows, x.shape[0], x.device)
        again = _edited(part.options(options), ReuseLogits(cache, edit), layers, (SELF, CROSS))
        second = executor(
            part(x),
            part(timesteps),
            part(context),
            part(y),
            part.control(control),
            again,
            **{name: part(value) for name, value in kw.items()},
        )
        return out.index_copy(0, part.index, second)

    return run


def _edited(options: dict[str, Any], edit: Edit, layers: frozenset[Layer], kinds: Sequence[str]) -> dict[str, Any]:
    """Transformer options of one call of the network with an edit on top of what is there."""
    return with_edit({"transformer_options": options}, edit, layers, kinds)["transformer_options"]


def _copied(control: Any) -> Any:
    """ComfyUI's network takes a ControlNet's residuals off their lists as it uses them."""
    return control if control is None else {name: list(parts) for name, parts in control.items()}


class _Rows:
    """Some rows of a call of the network."""

    def __init__(self, rows: list[int], count: int, device: torch.device) -> None:
        self.rows, self.count = rows, count
        self.index = torch.tensor(rows, device=device)

    def __call__(self, value: Any) -> Any:
        """The rows of what has one for each; anything else is shared by all."""
        if isinstance(value, Tensor) and value.ndim and value.shape[0] == self.count:
            return value.index_select(0, self.index)
        return value

    def control(self, control: Any) -> Any:
        return control if control is None else {name: [self(part) for part in parts] for name, parts in control.items()}

    def options(self, options: dict[str, Any]) -> dict[str, Any]:
        """The same call's options, saying which branches are left."""
        entries = options.get("cond_or_uncond", [CONDITIONAL])
        kept = [i for i, branch in enumerate(entries) if branch == CONDITIONAL]
        narrowed = {"cond_or_uncond": [CONDITIONAL] * len(kept)}
        if len(options.get("uuids", ())) == len(entries):
            narrowed["uuids"] = [options["uuids"][i] for i in kept]
        return {**options, **narrowed}
