"""Several color references that serve every input together: what they are, and their statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from ..attention.token_masks import tokens_in_mask
from ..attention.union import Union, check_numbers, check_union_masks, leaves_any, united
from ..color import as_picture, check_masks, in_batches, rgb_to_lab
from ..color.sizes import size_of
from ..color.statistics import Moments, pooled_moments
from .exemplar_inversion import Inverter, ReferencePair, joined_pairs
from .exemplar_settings import ColorizeSettings


@dataclass(frozen=True)
class References:
    """References of any number and sizes, all of which serve every input.

    Statistics of several are those of what their masks leave, where each picture counts by its weight and by the share
    of it that is left, whatever its size.

    :param pictures: (1, H, W, 3) in 0..1, one each; () where there are only their inversions.
    :param masks: (1, *, *) or None, one each: what is above one half gives color, and a mask with nothing there leaves
        its reference out. () for none.
    :param weights: above 0, one each; () for all alike.
    :raises ValueError: pictures, or numbers of masks or weights, that do not fit.
    """

    pictures: tuple[Tensor, ...] = ()
    masks: tuple[Tensor | None, ...] = ()
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.pictures:
            check_numbers(len(self.pictures), self.masks, self.weights)
        check_union_masks(self.masks)

    @classmethod
    def of(
        cls,
        pictures: Tensor | None,
        masks: Tensor | None = None,
        weights: Sequence[float] = (),
        *,
        inverted: int = 0,
    ) -> References:
        """A batch of references.

        :param pictures: (n, H, W, 3) in 0..1; None where they are inverted already.
        :param masks: (1 or n, *, *).
        :param weights: one for all, or one each.
        :param inverted: how many there are, where there are no pictures.
        :raises ValueError: numbers that do not fit.
        """
        each = () if pictures is None else tuple(as_picture(pictures, "reference").split(1))
        count, masks = len(each) or inverted, check_masks(masks, len(each) or inverted, "reference_mask")
        some = () if masks is None else tuple(masks.split(1)) * (count if len(masks) == 1 else 1)
        return cls(each, some, tuple(weights) * (count if len(weights) == 1 else 1))

    def __len__(self) -> int:
        """How many pictures there are; 0 where there are only their inversions."""
        return len(self.pictures)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Neighbors of one size, in order: (first, beyond the last) of each."""
        spans, first = [], 0
        for _, group in groupby(self.pictures, size_of):
            count = len(list(group))
            spans.append((first, first + count))
            first += count
        return spans

    def check(self, pair: ReferencePair | None) -> None:
        """Whether there is anything, and as much as was inverted.

        :raises ValueError: there is not.
        """
        if pair is None:
            return
        if self.pictures and len(self.pictures) != pair.pictures:
            raise ValueError(
                f"reference: found {len(self.pictures)} picture(s) beside {pair.pictures} inverted one(s), expected as "
                "many; connect the references that were inverted."
            )
        check_numbers(pair.pictures, self.masks, self.weights)

    def check_settings(self, settings: ColorizeSettings) -> None:
        """:raises ValueError: the published arithmetic, which knows one reference."""
        if settings.postprocess == "official":
            raise ValueError(
                "postprocess is official, which knows one reference only; expected exact with several for every input."
            )

    def united(self, pair: ReferencePair) -> Union:
        """Their kept features as those of one reference."""
        parts = [(part.color.bank, part.gray.bank) for part in pair.parts]
        return united(parts, self.masks, self.weights)

    def chroma(self) -> Moments:
        """Mean and deviation of a and b, in Lab units."""
        return self.moments([rgb_to_lab(picture.cpu().float())[0, ..., 1:] for picture in self.pictures])

    def latents(self, pair: ReferencePair) -> Moments:
        """Mean and deviation of the channels of their noised latents."""
        planes = [plane.movedim(0, -1) for part in pair.parts for plane in part.color.noised()]
        return self.moments(planes, unbiased=True)

    def moments(self, planes: Sequence[Tensor] | Tensor, *, unbiased: bool = False) -> Moments:
        """Mean and deviation of what is given of each reference, where its mask leaves it.

        :param planes: (h, w, C), one a reference.
        :param unbiased: see ``color.statistics.pooled_moments``.
        :raises ValueError: another number of masks or weights.
        """
        check_numbers(len(planes), self.masks, self.weights)
        samples, masses = [], []
        for at, plane in enumerate(planes):
            mask = self.masks[at] if self.masks else None
            values, share = plane.flatten(0, 1), 1.0
            if mask is not None:
                if not leaves_any(mask):
                    continue
                chosen = tokens_in_mask(mask.cpu(), size_of(plane[None]))[0]
                values, share = values[chosen.to(values.device)], len(chosen) / len(values)
            samples.append(values)
            masses.append(share * (self.weights[at] if self.weights else 1.0))
        return pooled_moments(samples, masses, unbiased)


def simplified(
    reference: Tensor | References | None, mask: Tensor | None, pair: ReferencePair | None
) -> tuple[Tensor | References | None, Tensor | None]:
    """What comes as references, checked; one that serves all inputs by itself is that picture and its mask.

    :raises ValueError: another number of references than were inverted.
    """
    if not isinstance(reference, References):
        return None if reference is None else as_picture(reference, "reference"), mask
    reference.check(pair)
    count = len(reference) if pair is None else pair.pictures
    if count != 1:
        return reference, mask
    picture = reference.pictures[0] if reference.pictures else None
    return picture, reference.masks[0] if reference.masks else None


def inverted(inverter: Inverter, references: References, calls: Callable[[int], None] | None = None) -> ReferencePair:
    """References and the same without color, inverted: neighbors of one size together, at most ``batch`` at once.

    :param calls: called with how many model calls of inverting references are still to come, where memory runs out and
        there are more of them than was thought.
    :raises RuntimeError: memory runs out on a single reference.
    """
    made: list[ReferencePair] = []
    each, sizes = inverter.settings.inversion_calls(), references.sizes
    at_once = inverter.settings.batch
    for number, (start, stop) in enumerate(sizes):

        def work(part: slice, start: int = start) -> ReferencePair:
            batch = torch.cat(references.pictures[start + part.start : start + part.stop])
            return inverter.invert_references(batch)

        def fewer(done: int, fit: int, number: int = number) -> None:
            nonlocal at_once
            at_once = fit
            left = [(sizes[number][0] + done, sizes[number][1]), *sizes[number + 1 :]]
            if calls is not None:
                calls(each * _rounds(left, fit))

        parts = in_batches(stop - start, at_once, work, inverter.host.out_of_memory, fewer)
        for _, pair in parts:
            made.append(pair if len(sizes) == 1 and stop - start <= at_once else pair.at_rest())
            del pair  # its features may be as much as the next ones need
    return joined_pairs(made)


def inverting_calls(references: References, settings: ColorizeSettings) -> int:
    """Model calls of :func:`inverted` while memory lasts."""
    return settings.inversion_calls() * _rounds(references.sizes, settings.batch)


def _rounds(spans: Sequence[tuple[int, int]], at_once: int) -> int:
    return sum(-(-(stop - start) // at_once) for start, stop in spans)
