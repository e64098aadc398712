"""Several references that serve every picture together: their tokens stand one behind the other.

Keys of self-attention have no place, so those of any number of references, of any sizes, are one key axis:

    o = softmax((q·[k_1, k_2, ...]ᵀ)/√d + log[w_1, w_2, ...]) · [v_1, v_2, ...]

Tokens outside of a reference's mask are left out. A weight w counts each token of its reference w times; weights that
are all alike change nothing. One reference is what it is by itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..diffusion.levels import same_levels
from .bank import FeatureBank
from .dual_banks import NO_FEATURES, NothingKeptError
from .layers import Layer
from .token_masks import tokens_in_mask

#: The chosen tokens of each reference; None is all of them.
Chosen = tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Union:
    """References as one picture whose tokens are those of all of them.

    :param color: bank of one picture, (1, M, channels) of each projection; ``gray`` of the same without color.
    :param bias: layer -> (M,) float32, the log of each token's weight; None where all count alike.
    :param tokens: layer -> which tokens of each reference are in it.
    :param grids: layer -> (height, width) of each reference's tokens.
    """

    color: FeatureBank
    gray: FeatureBank
    bias: Mapping[Layer, Tensor] | None
    tokens: Mapping[Layer, Chosen]
    grids: Mapping[Layer, tuple[tuple[int, int], ...]]

    def split(self, layer: Layer, values: Tensor) -> list[Tensor]:
        """Values of the tokens of a layer, (M,), laid out on each reference, (h, w) each; 0 for what is left out."""
        made, first = [], 0
        for grid, chosen in zip(self.grids[layer], self.tokens[layer], strict=True):
            plane = values.new_zeros(math.prod(grid))
            count = len(plane) if chosen is None else len(chosen)
            part = values[first : first + count]
            plane = part if chosen is None else plane.index_copy(0, chosen.to(plane.device), part)
            made.append(plane.unflatten(0, grid))
            first += count
        return made


def united(
    parts: Sequence[tuple[FeatureBank, FeatureBank]],
    masks: Sequence[Tensor | None] = (),
    weights: Sequence[float] = (),
) -> Union:
    """References of any number and sizes as one.

    Without masks those of one size share memory with their bank.

    :param parts: banks of references and of the same without color, one pair for each size, which keep the same.
    :param masks: for each reference, in their order, (1, H, W) or None: what counts is above one half. A mask with
        nothing there leaves its reference out. () for none.
    :param weights: for each reference, above 0; () for all alike.
    :raises ValueError: no mask leaves anything, or numbers of masks or weights that do not fit.
    """
    _check_parts(parts)
    count = sum(color.pictures for color, _ in parts)
    check_numbers(count, masks, weights)
    masks = tuple(masks) or (None,) * count
    check_union_masks(masks)
    layers = dict.fromkeys(layer for color, gray in parts for bank in (color, gray) for layer in bank.layers)
    tokens, grids, first = {layer: [] for layer in layers}, {layer: [] for layer in layers}, 0
    spans = []
    for color, gray in parts:
        spans.append(slice(first, first + color.pictures))
        first += color.pictures
        for layer in layers:
            grid = (color if layer in color.layers else gray).grid(layer)
            grids[layer] += [grid] * color.pictures
            tokens[layer] += [_chosen(mask, grid) for mask in masks[spans[-1]]]
    colored, plain = ([part[at] for part in parts] for at in (0, 1))
    whole = _joined(colored, spans, tokens)
    # who only asks where references match hands over the same banks twice
    alike = all(color is gray for color, gray in parts)
    without = whole if alike else _joined(plain, spans, tokens)
    bias = _bias(tokens, grids, weights) if len(set(weights)) > 1 else None
    each = {layer: tuple(chosen) for layer, chosen in tokens.items()}
    return Union(whole, without, bias, each, {layer: tuple(of) for layer, of in grids.items()})


def _check_parts(parts: Sequence[tuple[FeatureBank, FeatureBank]]) -> None:
    """:raises ValueError: a bank is empty, or does not fit its gray one or the first references'."""
    first, first_gray = parts[0]
    for number, (color, gray) in enumerate(parts, 1):
        end = "" if number == 1 else f"_{number}"
        _check_like(f"reference_inversion{end}", color, first)
        if gray.pictures or first_gray.pictures:
            _check_like(f"gray_inversion{end}", gray, first_gray)
            _check_gray(end, color, gray)


def _check_like(name: str, bank: FeatureBank, first: FeatureBank) -> None:
    if not bank.pictures:
        raise NothingKeptError(NO_FEATURES.format(name))
    kept, expected = ({(layer, letter) for _, layer, letter, _ in one.items()} for one in (bank, first))
    if kept != expected or not same_levels(bank.sigmas, first.sigmas):
        raise ValueError(
            f"{name}: found features of other layers or levels than the first references have, expected the same; use "
            "the same Attention Capture, steps, depth and convention for all."
        )


def _check_gray(end: str, color: FeatureBank, gray: FeatureBank) -> None:
    if gray.pictures != color.pictures:
        raise ValueError(
            f"gray_inversion{end}: found {gray.pictures} picture(s), expected {color.pictures} as "
            f"reference_inversion{end} has; invert both alike."
        )
    for layer in (layer for layer in color.layers if layer in gray.layers):
        if color.grid(layer) != gray.grid(layer):
            raise ValueError(
                f"gray_inversion{end}: found {gray.grid(layer)} tokens at {layer.name}, expected {color.grid(layer)} "
                f"as reference_inversion{end} has; invert both at the same size."
            )


def check_numbers(count: int, masks: Sequence[object], weights: Sequence[float]) -> None:
    """:raises ValueError: not one mask and one weight for each of ``count`` references, or none; or odd weights."""
    for name, found in (("reference_mask", len(masks)), ("weights", len(weights))):
        if found not in (0, count):
            raise ValueError(
                f"{name}: found {found} for {count} reference(s), expected one each; give as many as there are "
                "references, or none."
            )
    if not all(0 < weight < math.inf for weight in weights):
        raise ValueError(f"weights: found {list(weights)}, expected numbers above 0; leave out what is not to count.")


def check_union_masks(masks: Sequence[Tensor | None]) -> None:
    """:raises ValueError: masks, (1, H, W) each, of which none leaves anything."""
    if masks and not any(mask is None or leaves_any(mask) for mask in masks):
        raise ValueError(
            "reference_mask: found masks with nothing above one half, expected some place where color may come from; "
            "paint one, or disconnect the mask."
        )


def leaves_any(mask: Tensor) -> bool:
    """Whether a mask has anything above one half."""
    return bool((mask > 0.5).any())


def _chosen(mask: Tensor | None, grid: tuple[int, int]) -> Tensor | None:
    if mask is None:
        return None
    return tokens_in_mask(mask, grid)[0] if leaves_any(mask) else torch.zeros(0, dtype=torch.long)


def _joined(
    banks: Sequence[FeatureBank], spans: Sequence[slice], tokens: Mapping[Layer, Sequence[Tensor | None]]
) -> FeatureBank:
    """A bank of one picture whose tokens are the chosen ones of all pictures."""
    made = FeatureBank()
    for sigma, layer, letter, _ in banks[0].items():
        rows: list[Tensor] = []
        for bank, span in zip(banks, spans, strict=True):
            kept, chosen = bank.get(bank.nearest(sigma), layer, letter), tokens[layer][span]
            if all(one is None for one in chosen):
                rows.append(kept.flatten(0, 1))
                continue
            some = zip(kept, chosen, strict=True)
            rows += [row if one is None else row[one.to(row.device)] for row, one in some]
        whole = rows[0] if len(rows) == 1 else torch.cat([row.to(rows[0]) for row in rows])
        made.put(sigma, layer, (1, len(whole)), **{letter: whole[None]})
    return made


def _bias(
    tokens: Mapping[Layer, Sequence[Tensor | None]],
    grids: Mapping[Layer, Sequence[tuple[int, int]]],
    weights: Sequence[float],
) -> dict[Layer, Tensor]:
    """layer -> (M,), log w of each token, the largest weight counting as 1."""
    most, made = max(weights), {}
    for layer, chosen in tokens.items():
        counts = [math.prod(grid) if one is None else len(one) for grid, one in zip(grids[layer], chosen, strict=True)]
        logs = torch.tensor([math.log(weight / most) for weight in weights])
        made[layer] = logs.repeat_interleave(torch.tensor(counts))
    return made
