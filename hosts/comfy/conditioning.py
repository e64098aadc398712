"""What a CONDITIONING must be for work that asks more of it than a sampler does.

An ordinary sampler draws with whatever it is given: a place or a level that no prompt is for comes out as zeros. An
inversion, or guidance between two predictions of one prompt, would take those zeros for the picture.
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import comfy.patcher_extension
import torch
import torch.nn.functional as F
from torch import Tensor

from ...color import as_mask
from ...color.held import is_list
from ...color.tensors import FLOATS, LARGEST, check_finite, check_tensor
from ...diffusion.schedule import Convention, inversion_plan
from .families.found import is_transformer
from .fits import check_levels
from .model import context_width, sigma_table
from .prompt_rows import rows_in_turn
from .sampling_checks import check_run

#: Under which the check of a sampling stands in a MODEL.
_KEY = "exemplar.conditioning"

#: Numbers of an entry that weigh it or say when it acts.
_NUMBERS = (
    "strength",
    "mask_strength",
    "start_percent",
    "end_percent",
    "clip_start_percent",
    "clip_end_percent",
)

#: Sizes that go into the labels of ComfyUI's classes beside the pooled prompt, 256 numbers each.
_LABEL_SIZES = {"SDXL": 6, "SDXLRefiner": 5}

#: Places to a side that masks are looked at by: the latents of a picture of 512 pixels.
_GRID = 64


def check_conditioning(
    conditioning: Any,
    node: str,
    name: str = "conditioning",
    *,
    model: Any = None,
    levels: Sequence[float] = (),
    pictures: int = 0,
    whole_picture: bool = True,
    always_active: bool = True,
) -> None:
    """Whether a CONDITIONING is one that a node can use. What else its entries carry is not looked at.

    :param node: display name of the asking node; ``name`` is its input's. Messages start with them.
    :param model: whose prompts they must be; None where the node has no MODEL.
    :param levels: sigmas at each of which some prompt must act; () where they are not known yet: then one must act at
        any time.
    :param pictures: how many there are, among whom rows of prompts are handed out in turn; 0 where that is not known, 1
        where batches hold other pictures beside the user's, so that all must have one prompt.
    :param whole_picture: every place of the picture must have a prompt, and none may be for an area.
    :param always_active: some prompt must act at every level.
    :raises ValueError: it is not, saying what was found, what was expected and what to do.
    """
    asked = f"{node}: {name}"
    _check_entries(conditioning, asked)
    if model is not None:
        _check_family(conditioning, asked, model)
    if pictures:
        _check_rows(conditioning, asked, pictures)
    if whole_picture and any("area" in extras or _bounds_itself(extras) for _, extras in conditioning):
        raise ValueError(
            f"{asked}: found a prompt for an area of the picture, expected prompts for the whole picture; connect it "
            "without Conditioning (Set Area), and with 'default' instead of 'mask bounds' in Conditioning (Set Mask)."
        )
    for acting, when in _acting(conditioning, model, levels):
        if always_active and not acting:
            raise ValueError(
                f"{asked}: found no prompt that acts {when}, expected one at every step; connect it without "
                "Conditioning (Set Timestep Range), or combine it with one for the rest of the steps."
            )
        if whole_picture and acting and not _covers(acting):
            raise ValueError(
                f"{asked}: found prompts for a part of the picture only, or of negative strength, expected one at "
                "every place; connect it without Conditioning (Set Mask), or combine it with one for the rest of the "
                "picture."
            )


def checked_when_sampled(model: Any, conditioning: list, node: str, name: str = "conditioning") -> Any:
    """A clone of a MODEL that looks at what is sampled, and at a CONDITIONING again, before sampling starts."""
    clone = model.clone()
    ranged = any(_range(extras) for _, extras in conditioning)

    def wrapper(executor: Any, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, *args: Any, **kw: Any):
        check_run(model, noise, latent, sampler, sigmas, node)
        levels = [sigma for sigma in sigmas.cpu().tolist()[:-1] if sigma > 0]
        check_conditioning(conditioning, node, name, model=model, levels=levels if ranged else (), pictures=len(latent))
        return executor(noise, latent, sampler, sigmas, *args, **kw)

    clone.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, _KEY, wrapper)
    return clone


def inversion_levels(model: Any, steps: int, depth: int, convention: Convention) -> tuple[float, ...]:
    """The sigmas at which an inversion reads the network, up and on the way back.

    :raises ValueError: steps or depth out of range, or more than the MODEL has noise levels.
    """
    check_levels(model, steps)
    plan = inversion_plan(sigma_table(model), steps, depth, convention, flow=is_transformer(model))
    return (*plan.reads, *plan.kept_sigmas)


def _check_entries(conditioning: Any, asked: str) -> None:
    """:raises ValueError: not a list of prompts with finite numbers."""
    if not is_list(conditioning):
        raise ValueError(
            f"{asked}: found {type(conditioning).__name__}, expected a CONDITIONING; connect a CLIP Text Encode."
        )
    if not conditioning:
        raise ValueError(f"{asked}: found an empty CONDITIONING, expected a prompt; connect a CLIP Text Encode.")
    for entry in conditioning:
        if not (isinstance(entry, (list, tuple)) and len(entry) == 2 and isinstance(entry[1], dict)):
            raise ValueError(
                f"{asked}: found an entry that is no pair, expected a prompt and its options; look at the node that "
                "made it."
            )
        context, extras = entry
        check_tensor(context, asked, "a prompt (1, tokens, width)")
        if context.dtype not in FLOATS:
            raise ValueError(
                f"{asked}: found a prompt of {context.dtype}, expected floats; connect a CLIP Text Encode."
            )
        if context.ndim != 3 or 0 in context.shape:
            raise ValueError(
                f"{asked}: found a prompt of shape {tuple(context.shape)}, expected (1, tokens, width); connect a "
                "CLIP Text Encode."
            )
        _check_options(extras, asked)
        check_finite(context, asked, "an encoded text")


def _check_rows(conditioning: list, asked: str, pictures: int) -> None:
    """:raises ValueError: rows of prompts that pictures do not take all in turn."""
    wrong = next((rows for rows in rows_in_turn(conditioning, hints=pictures == 1) if pictures % rows), None)
    if wrong is None:
        return
    if pictures == 1:
        raise ValueError(
            f"{asked}: found prompts for {wrong} pictures, expected one prompt for all; work on the pictures one by "
            "one, each with its own prompt."
        )
    raise ValueError(
        f"{asked}: found prompts for {wrong} pictures, expected one for all of {pictures}, or one for each; encode as "
        "many, or one."
    )


def _check_options(extras: dict[str, Any], asked: str) -> None:
    """:raises ValueError: options of a prompt that are none, or not finite."""
    for key in _NUMBERS:
        value = extras.get(key, 0)
        if not (isinstance(value, numbers.Real) and abs(value) < LARGEST):
            found = repr(value) if value is None or isinstance(value, numbers.Real) else type(value).__name__
            raise ValueError(
                f"{asked}: {key} of a prompt: found {found}, expected a finite number; look at the node that made it."
            )
    for key in ("mask", "area"):
        if key in extras and extras[key] is None:  # ComfyUI asks only whether it is there
            raise ValueError(
                f"{asked}: {key} of a prompt: found nothing, expected one, or no such option; look at the node that "
                "made it."
            )
    pooled, mask = extras.get("pooled_output"), extras.get("mask")
    if pooled is not None:
        named = f"{asked}: the prompt's pooled text"
        check_tensor(pooled, named, "floats (1, width)")
        if pooled.dtype not in FLOATS or not pooled.ndim or 0 in pooled.shape:
            found = f"{pooled.dtype} of shape {tuple(pooled.shape)}"
            raise ValueError(f"{named}: found {found}, expected floats (1, width); connect a CLIP Text Encode.")
        check_finite(pooled, named, "an encoded text")
    if mask is not None:
        as_mask(mask, f"{asked}: the prompt's mask")
    _check_area(extras.get("area"), asked)


def _check_area(area: Any, asked: str) -> None:
    """:raises ValueError: not the area of Conditioning (Set Area)."""
    if area is None:
        return
    sides = area[1:] if isinstance(area, (tuple, list)) and area and area[0] == "percentage" else area
    if not isinstance(sides, (tuple, list)) or len(sides) < 4 or not all(_is_side(side) for side in sides):
        raise ValueError(
            f"{asked}: found an area that is not height, width, top and left, expected that of Conditioning (Set "
            "Area); look at the node that made it."
        )


def _is_side(side: Any) -> bool:
    return isinstance(side, numbers.Real) and 0 <= side < LARGEST


def _check_family(conditioning: list, asked: str, model: Any) -> None:
    """:raises ValueError: prompts of another family's text encoder."""
    width = context_width(model)
    kinds = {kind.__name__ for kind in type(model.model).__mro__}
    sizes = next((count for name, count in _LABEL_SIZES.items() if name in kinds), None)
    for context, extras in conditioning:
        if width is not None and context.shape[2] != width:
            raise ValueError(
                f"{asked}: found a prompt {context.shape[2]} wide, expected {width} for this MODEL "
                f"({type(model.model).__name__}); encode it with the CLIP of the same checkpoint."
            )
        if sizes is None or "unclip_conditioning" in extras:
            continue
        pooled, labels = extras.get("pooled_output"), getattr(model.model, "adm_channels", 0)
        if not isinstance(pooled, Tensor) or (labels and pooled.shape[-1] != labels - sizes * 256):
            found = f"one {pooled.shape[-1]} wide" if isinstance(pooled, Tensor) else "none"
            expected = f" {labels - sizes * 256} wide" if labels else ""
            raise ValueError(
                f"{asked}: the prompt's pooled text: found {found}, expected one{expected} for this MODEL "
                f"({type(model.model).__name__}); encode it with the CLIP of the same checkpoint."
            )


def _bounds_itself(extras: dict[str, Any]) -> bool:
    """Whether ComfyUI makes an area of an entry's mask."""
    return extras.get("mask") is not None and bool(extras.get("set_area_to_bounds", False))


def _range(extras: dict[str, Any]) -> tuple[float, float] | None:
    """(start, end) of an entry's range in percent of the schedule, as ComfyUI reads it; None for always."""
    start, end = extras.get("start_percent"), extras.get("end_percent")
    if "clip_start_percent" in extras:
        start = max(extras["clip_start_percent"], 0.0 if start is None else start)
        end = min(extras.get("clip_end_percent", 1.0), 1.0 if end is None else end)
    if start is None and end is None:
        return None
    return (0.0 if start is None else start, 1.0 if end is None else end)


def _acting(conditioning: list, model: Any, levels: Sequence[float]) -> list[tuple[list[dict[str, Any]], str]]:
    """The sets of entries that act together, and when."""
    entries = [(extras, _range(extras)) for _, extras in conditioning if extras.get("strength", 1.0) != 0]
    if model is None or not levels or all(limits is None for _, limits in entries):
        return [([extras for extras, limits in entries if limits is None or limits[0] < limits[1]], "at any step")]
    to_sigma = model.get_model_object("model_sampling").percent_to_sigma
    spans = []
    for extras, limits in entries:
        percents = (0.0, 1.0) if limits is None else limits
        spans.append((extras, *torch.tensor([float(to_sigma(percent)) for percent in percents]).tolist()))
    found: dict[tuple[int, ...], tuple[list[dict[str, Any]], str]] = {}
    for level in torch.tensor(levels).tolist():  # both in float32, as the sampler compares them
        acting = [extras for extras, first, last in spans if last <= level <= first]
        found.setdefault(tuple(id(extras) for extras in acting), (acting, f"at sigma {level:.3f}"))
    return list(found.values())


def _covers(acting: list[dict[str, Any]]) -> bool:
    """Whether entries together leave no place without a prompt: ComfyUI divides by what their strengths add up to."""
    places = [_weights(extras) for extras in acting]
    if len({len(each) for each in places} - {1}) > 1:
        places = [each.amin(0, keepdim=True) for each in places]
    return bool((torch.stack(torch.broadcast_tensors(*places)).sum(0) > 0).all())


def _weights(extras: dict[str, Any]) -> Tensor:
    """(B, h, w): how much an entry counts in each place of a coarse grid."""
    mask, strength = extras.get("mask"), float(extras.get("strength", 1.0))
    if mask is None:
        return torch.full((1, _GRID, _GRID), strength)
    covered = F.adaptive_avg_pool2d(mask.detach().float().clamp_min(0).reshape(-1, *mask.shape[-2:]), _GRID)
    return covered.cpu() * (strength * float(extras.get("mask_strength", 1.0)))
