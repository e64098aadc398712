"""Instance-aware sampling on a ComfyUI MODEL, for every sampler: phrases with masks, around each call of its UNet."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import comfy.patcher_extension
from torch import Tensor

from ...attention.call import CONDITIONAL, CROSS, SELF, UNKNOWN, Edit
from ...attention.constants import Constants
from ...attention.instances import Instance, InstanceEdit, InstanceSettings
from ...attention.layers import Layer
from ...attention.logits import KeepLogits, LogitCache, ReuseLogits, StaleLogits
from ...attention.phrases import find_phrases, split_prompt
from ...attention.rows import put, taken
from .calls import FOREIGN_PROMPT, NO_LEVEL, UNetCall, step_aside
from .edits import PlacedEdit, Sampling, add_edit, layer_widths, placed_edits, with_edit, with_temporary
from .prompts import prompt_tokens
from .room import queries_and_keys
from .rows import Rows

#: Display name of the node, for messages, and the key of the wrapper that starts a run's cache of logits.
NAME, CACHE = "L-CAD Instances", "exemplar_logits"

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
            f"masks: found {len(masks)} for {len(names)} phrase(s) ({', '.join(names)}), expected one for each, in "
            "this order; join masks with Batch Masks or chain one of these nodes a phrase."
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
    before = _drawing(model)
    drawing = _Instances(
        (*instances_of(model), *instances), layer_widths(model), model.model.latent_format.spacial_downscale_ratio
    )
    twice = any(instance.settings.schedule != "one pass" for instance in drawing.instances)
    placed = PlacedEdit(
        NAME,
        around=drawing,
        whole_pictures=True,
        check=drawing.check,
        release=drawing.sent.clear,
        holds=queries_and_keys(1) if twice else None,  # conditional rows, between the two passes of a call
    )
    return add_edit(model, placed, instead_of=before)


def instances_of(model: Any) -> tuple[Instance, ...]:
    """The phrases that a MODEL draws into masks."""
    placed = _drawing(model)
    return () if placed is None else placed.around.instances


def _drawing(model: Any) -> PlacedEdit | None:
    edits = placed_edits(model.model_options.get("transformer_options", {}))
    return next((placed for placed in edits if isinstance(placed.around, _Instances)), None)


def reuse_logits(model: Any) -> Any:
    """A clone of the MODEL whose attention repeats the published plain sampling.

    Every second call of a run uses the logits of the one before it (``attention.logits.StaleLogits``).
    """
    layers, name = layer_widths(model), "Load L-CAD (official attention)"

    def check(run: Sampling) -> None:
        run.refuse_windows(
            f"{name} carries attention from step to step",
            "Take the context windows off, or set attention of Load L-CAD to fresh.",
        )

    def start(executor: Any, guider: Any, sigmas: Tensor, extra: dict[str, Any], *args: Any, **kw: Any):
        stale = PlacedEdit(name, StaleLogits(LogitCache()), layers, (SELF, CROSS), whole_pictures=True)
        options = with_edit(extra["model_options"], stale)
        return executor(guider, sigmas, {**extra, "model_options": options}, *args, **kw)

    # the run, its predictions and whose prompts they are must be known, though the edit itself is made for each run
    both = queries_and_keys(2)  # conditional and unconditional rows, from one call to the next
    patched = add_edit(model, PlacedEdit(name, whole_pictures=True, check=check, holds=both))
    patched.add_wrapper_with_key(_Wrappers.SAMPLER_SAMPLE, CACHE, start)
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


class _Instances:
    """What the node does around a call of the UNet: it draws phrases into their masks.

    Everything happens inside one call; what is remembered between calls are masks on the device, for one run.

    :param layers: all of the MODEL's, with their widths.
    :param factor: pixels a latent covers.
    """

    def __init__(self, instances: Sequence[Instance], layers: Mapping[Layer, int], factor: int) -> None:
        self.instances, self.layers, self.factor = tuple(instances), layers, factor
        self.sent = Constants()

    def check(self, run: Sampling) -> None:
        """:raises ValueError: masks for other pictures than are sampled."""
        wrong = [n for n in (len(instance.masks) for instance in self.instances) if run.shape[0] % n]
        if wrong:
            raise ValueError(
                f"latent: found {run.shape[0]} picture(s), expected {wrong[0]}, as a phrase has masks, or a multiple; "
                "give each phrase one mask for all pictures, or one for each."
            )

    def __call__(self, run: Callable[[UNetCall], Tensor], call: UNetCall) -> Tensor:
        """The UNet's output with the phrases that act at this level drawn, in one pass or in two."""
        sigma = call.sigma
        if sigma is None:
            step_aside(PlacedEdit(NAME), call.options, NO_LEVEL)
            return run(call)
        acting = [instance for instance in self.instances if instance.settings.acts(sigma)]
        rows = call.rows
        if acting and rows is not None and UNKNOWN in rows.branches:
            step_aside(PlacedEdit(NAME), call.options, FOREIGN_PROMPT)
        if not acting or (rows is not None and CONDITIONAL not in rows.branches):
            return run(call)
        edit = InstanceEdit(acting, tuple(side * self.factor for side in call.x.shape[-2:]), self.sent)
        if rows is None or all(instance.settings.schedule == "one pass" for instance in acting):
            return run(self._under(call, edit, (CROSS,)))
        cache = LogitCache()
        first = replace(call, control=_copied(call.control))
        out = run(self._under(first, KeepLogits(cache), (SELF, CROSS)))
        # unconditional rows would come out of the second pass as they went in; but patches of other nodes may hold the
        # rows against each other (NAG)
        everything = any(call.options.get("patches", {}).values())
        drawn = [i for i, branch in enumerate(rows.branches) if everything or branch == CONDITIONAL]
        part = _Rows(drawn, rows, call)
        second = run(self._under(part.call, ReuseLogits(cache, edit), (SELF, CROSS)))
        out = out.clone()
        put(out, drawn, second)
        return out

    def _under(self, call: UNetCall, edit: Edit, kinds: Sequence[str]) -> UNetCall:
        """The call with an edit on top of the others."""
        placed = PlacedEdit(
            NAME,
            edit,
            self.layers,
            kinds,
            branches=frozenset({CONDITIONAL}),
            whole_pictures=True,
            alike=all(len(instance.masks) == 1 for instance in self.instances),
        )
        return replace(call, options=with_temporary(call.options, placed))


def _copied(control: Any) -> Any:
    """ComfyUI's network takes a ControlNet's residuals off their lists as it uses them."""
    return control if control is None else {name: list(parts) for name, parts in control.items()}


class _Rows:
    """Some rows of a call of the UNet.

    :ivar call: the call with those rows only, which says which prompts are left.
    """

    def __init__(self, positions: list[int], rows: Rows, call: UNetCall) -> None:
        self.count, self.positions = len(rows.branches), positions
        numbers = call.options.get("cond_or_uncond", [CONDITIONAL])
        each = self.count // len(numbers)
        kept = [i for i in range(len(numbers)) if i * each in positions]
        options = {**call.options, "cond_or_uncond": [numbers[i] for i in kept]}
        if len(options.get("uuids", ())) == len(numbers):
            options["uuids"] = [options["uuids"][i] for i in kept]
        self.call = UNetCall(
            self._of(call.x),
            self._of(call.timesteps),
            self._of(call.context),
            self._of(call.y),
            call.control and {name: [self._of(part) for part in parts] for name, parts in call.control.items()},
            options,
            {name: self._of(value) for name, value in call.more.items()},
        )

    def _of(self, value: Any) -> Any:
        """The rows of what has one for each; anything else is shared by all."""
        if isinstance(value, Tensor) and value.ndim and value.shape[0] == self.count:
            return taken(value, self.positions)
        return value
