"""Attention edits in a MODEL: an ordered list under the pack's key of its transformer options.

Nothing is put into a MODEL's table of replacements. What the list holds is laid over whatever stands on a layer when
the UNet is called (``calls``), in the order in which the nodes added it: the last one is on top. So the order among
nodes and packs is defined, a clone costs nothing, and a MODEL without the node is the plain one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import comfy.patcher_extension
from torch import Tensor

from ...attention.call import SELF, Edit
from ...attention.layers import Layer
from . import calls
from .families.found import is_transformer
from .model import EDITS, KEY, PART, PREDICTION, RUN, attention_layers
from .room import Holds, make_room
from .rows import Part, Prediction, guider_branches, guider_ranks, guider_twins, list_places
from .runs import Run
from .sampling_checks import check_run
from .transformer_calls import run_transformer

if TYPE_CHECKING:
    from .calls import UNetCall

_Wrappers = comfy.patcher_extension.WrappersMP


@dataclass(frozen=True)
class Sampling:
    """What is about to be sampled.

    :param noise: (B, C, h, w), what is added to ``latent``, both in the scale of a LATENT.
    :param mask: where the latents may change, None for everywhere.
    :param guider: whose ``conds`` are the prompts.
    :param part: the pictures that these are, where they are not all of a batch.
    """

    noise: Tensor
    latent: Tensor
    sampler: Any
    sigmas: Tensor
    mask: Tensor | None
    guider: Any
    run: Run
    part: Part | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the latents, (B, C, h, w), where they are a part of a batch the whole one's."""
        return (self.noise.shape[0] if self.part is None else self.part.of, *self.noise.shape[1:])

    def refuse_windows(self, why: str, what_to_do: str) -> None:
        """:raises ValueError: the MODEL splits batches into context windows."""
        if self.guider.model_options.get("context_handler") is not None:
            raise ValueError(f"{why}, but this MODEL splits batches into context windows. {what_to_do}")

    def refuse_mask(self, node: str, socket: str) -> None:
        """For latents that come noised.

        :param node: display name, whose ``socket`` takes a mask.
        :raises ValueError: a noise mask.
        """
        if self.mask is not None and bool((self.mask < 1).any()):
            raise ValueError(
                "latent: found a noise mask (Set Latent Noise Mask, an inpainting latent), expected none: outside of "
                f"it the noised latent itself would stay. Take it off, and connect the mask to {socket} of {node}."
            )


@dataclass(frozen=True)
class PlacedEdit:
    """An attention edit, and where and when it stands in a MODEL.

    :param name: of the node that asked for it, for messages.
    :param edit: None where all is done ``around`` the call.
    :param layers: on which it acts, with their widths in channels: a call of another width is another model's.
    :param kinds: of attention on those layers.
    :param acts: whether it does anything at a sigma.
    :param branches: whose rows it changes; None for all.
    :param whole_pictures: it can't serve prompts for an area of the picture.
    :param alike: it does the same to every picture, so that it need not know which one it is asked for.
    :param strict: what it can't do it refuses; else it steps aside with a warning.
    :param around: takes the place of a call of the UNet, which it is handed with the call.
    :param check: raises ValueError for what must not be sampled, before it is.
    :param release: lets go of what the edit kept of a run, when that ends, however it ends.
    :param holds: bytes that it keeps on the device in a run beside the model's own activations, at most: ComfyUI makes
        room for them before it loads the model. None for nothing to speak of, such as masks.
    """

    name: str
    edit: Edit | None = None
    layers: Mapping[Layer, int] = field(default_factory=dict)
    kinds: Sequence[str] = (SELF,)
    acts: Callable[[float], bool] = lambda sigma: True
    branches: frozenset[int] | None = None
    whole_pictures: bool = False
    alike: bool = False
    strict: bool = False
    around: Callable[[Callable[[UNetCall], Tensor], UNetCall], Tensor] | None = None
    check: Callable[[Sampling], None] | None = None
    release: Callable[[], None] | None = None
    holds: Holds | None = None


def layer_widths(model: Any, layers: Iterable[Layer] | None = None) -> dict[Layer, int]:
    """Layers of a MODEL (None: all) with their widths."""
    chosen = None if layers is None else frozenset(layers)
    return {i.layer: i.channels for i in attention_layers(model) if chosen is None or i.layer in chosen}


def placed_edits(options: Mapping[str, Any]) -> tuple[PlacedEdit, ...]:
    """The list of a MODEL's or a call's transformer options."""
    return options.get(KEY, {}).get(EDITS, ())


def add_edit(model: Any, placed: PlacedEdit, instead_of: PlacedEdit | None = None) -> Any:
    """A clone of the MODEL with an edit on top of those that it has.

    :param instead_of: one of those, whose place it takes.
    """
    patched = model.clone()
    options = patched.model_options.setdefault("transformer_options", {})
    present = placed_edits(options)
    if any(one is instead_of for one in present):
        edits = tuple(placed if one is instead_of else one for one in present)
    else:
        edits = (*present, placed)
    options[KEY] = {**options.get(KEY, {}), EDITS: edits}
    for kind, wrapper in (
        (_Wrappers.OUTER_SAMPLE, _sampling),
        (_Wrappers.PREPARE_SAMPLING, make_room),
        (_Wrappers.PREDICT_NOISE, _predicting),
        (_Wrappers.CALC_COND_BATCH, _asking),
        _around_model(model),
    ):
        if wrapper not in patched.get_wrappers(kind, KEY):
            patched.add_wrapper_with_key(kind, KEY, wrapper)
    return patched


def _around_model(model: Any) -> tuple[str, Callable]:
    """Where edits stand around a MODEL's calls, and what does.

    Not every transformer runs wrappers of its network (Stable Diffusion 3's does not), and each is called with other
    arguments; what ComfyUI makes these of has the same for all.
    """
    if is_transformer(model):
        return _Wrappers.APPLY_MODEL, run_transformer
    return _Wrappers.DIFFUSION_MODEL, calls.run_unet


def for_pictures(model: Any, part: Part) -> Any:
    """A clone of the MODEL that is asked for some pictures of a batch; its edits know which ones."""
    patched = model.clone()
    options = patched.model_options.setdefault("transformer_options", {})
    options[KEY] = {**options.get(KEY, {}), PART: part}
    return patched


def with_edit(
    model_options: Mapping[str, Any], placed: PlacedEdit, prediction: Prediction | None = None
) -> dict[str, Any]:
    """Model options of one prediction under one more edit: for guiders, whose edits change from call to call.

    :param prediction: what is asked, where the guider knows it better than the sampler.
    :returns: a copy; the edit is on top of the MODEL's.
    """
    options = with_temporary(model_options.get("transformer_options", {}), placed, prediction)
    kind = _Wrappers.DIFFUSION_MODEL
    wrappers = dict(options.get("wrappers", {}))
    here = dict(wrappers.get(kind, {}))
    if calls.run_unet not in here.get(KEY, ()):
        here[KEY] = [*here.get(KEY, ()), calls.run_unet]
    return {**model_options, "transformer_options": {**options, "wrappers": {**wrappers, kind: here}}}


def with_temporary(
    options: Mapping[str, Any], placed: PlacedEdit, prediction: Prediction | None = None
) -> dict[str, Any]:
    """Transformer options with an edit on top of the list; a copy."""
    own = {**options.get(KEY, {}), EDITS: (*placed_edits(options), placed)}
    if prediction is not None:
        own[PREDICTION] = prediction
    return {**options, KEY: own}


def _sampling(
    executor: Any,
    noise: Tensor,
    latent_image: Tensor,
    sampler: Any,
    sigmas: Tensor,
    denoise_mask: Any = None,
    *args: Any,
    **kw: Any,
) -> Tensor:
    """Around a run: checks before it, and nothing kept after it. Its parameters have ComfyUI's names."""
    guider = executor.class_obj
    options = guider.model_options.setdefault("transformer_options", {})
    run = Run(noise.shape[0])
    options[KEY] = {**options.get(KEY, {}), RUN: run}
    _innermost(options)
    edits = placed_edits(options)
    sampling = Sampling(noise, latent_image, sampler, sigmas.cpu(), denoise_mask, guider, run, options[KEY].get(PART))
    if edits:
        check_run(guider.model_patcher, noise, latent_image, sampler, sigmas, edits[0].name)
    for placed in edits:
        try:
            if placed.whole_pictures:
                _check_areas(placed, sampling)
            if placed.check is not None:
                placed.check(sampling)
        except ValueError as error:
            raise ValueError(str(error) if str(error).startswith(placed.name) else f"{placed.name}: {error}") from None
    try:
        made = executor(noise, latent_image, sampler, sigmas, denoise_mask, *args, **kw)
    finally:
        for placed in edits:
            if placed.release is not None:
                placed.release()
    if len(sigmas) > 1 and not run.asked:
        for name in dict.fromkeys(one.name for one in edits if one.edit or one.around or one.whole_pictures):
            run.warn(
                f"{name} did nothing: another node on this MODEL calls the network's layers by itself, or without the "
                "options that say what to do in them. Take it off this MODEL."
            )
    return made


def _innermost(options: dict[str, Any]) -> None:
    """Put our wrapper next to the UNet, whatever the order of the nodes.

    A cache of model calls (EasyCache) that stood between would take two passes of an edit for two steps.
    """
    wrappers = dict(options.get("wrappers", {}))
    for kind in (_Wrappers.DIFFUSION_MODEL, _Wrappers.APPLY_MODEL):
        here = wrappers.get(kind, {})
        if KEY in here:
            wrappers[kind] = {**{key: group for key, group in here.items() if key != KEY}, KEY: here[KEY]}
            options["wrappers"] = wrappers


def _predicting(
    executor: Any, x: Tensor, timestep: Tensor, model_options: Mapping[str, Any] | None = None, *args: Any, **kw: Any
) -> Tensor:
    """Around a prediction: what the guider's prompts are to each other goes into the options of its calls."""
    model_options = model_options or {}
    options = model_options.get("transformer_options", {})
    guider = executor.class_obj
    # another pack may have made the options anew
    own = {**guider.model_options.get("transformer_options", {}).get(KEY, {}), **options.get(KEY, {})}
    before: Prediction | None = own.get(PREDICTION)
    handler = model_options.get("context_handler")
    prediction = Prediction(
        number=own[RUN].next_prediction() if RUN in own else 1 + (before.number if before else 0),
        branches=guider_branches(guider),
        pictures=x.shape[0],
        size=(x.shape[-2], x.shape[-1]),
        windowed=bool(getattr(handler, "latent_retain_index_list", None)),
        ranks=guider_ranks(guider),
        partial=_is_part(x, own.get(RUN)),
        twins=frozenset() if "model_function_wrapper" in model_options else guider_twins(guider),
    )
    changed = {**options, KEY: {**own, PREDICTION: prediction}}
    return executor(x, timestep, {**model_options, "transformer_options": changed}, *args, **kw)


def _is_part(x: Tensor, run: Run | None) -> bool:
    """Whether a sampler asks for some pictures of its batch only, which ones it does not say."""
    return run is not None and run.pictures > 1 and x.shape[0] % run.pictures != 0


def _asking(
    executor: Any, model: Any, conds: Any, x_in: Tensor, timestep: Tensor, model_options: Any, *args: Any, **kw: Any
) -> Any:
    """Around the calls of a prediction: which list of prompts stands where goes into their options."""
    options = model_options.get("transformer_options", {})
    own = options.get(KEY, {})
    prediction: Prediction | None = own.get(PREDICTION)
    if prediction is not None:
        prediction = replace(prediction, places=list_places(prediction.branches, conds))
        options = {**options, KEY: {**own, PREDICTION: prediction}}
        model_options = {**model_options, "transformer_options": options}
    return executor(model, conds, x_in, timestep, model_options, *args, **kw)


def _check_areas(placed: PlacedEdit, sampling: Sampling) -> None:
    """:raises ValueError: a prompt for an area of the picture."""
    for entries in (getattr(sampling.guider, "conds", None) or {}).values():
        for entry in entries or ():
            if "area" in entry or entry.get("set_area_to_bounds"):
                raise ValueError(
                    f"{placed.name}: conditioning: found a prompt for an area of the picture only (Conditioning Set "
                    "Area, or a mask's bounds), expected prompts for the whole picture; use Conditioning (Set Mask) "
                    "with 'default' in place of it."
                )
