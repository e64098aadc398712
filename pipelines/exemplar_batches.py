"""Exemplar colorization of any number of pictures: as many at once as memory allows, round after round."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ..color import in_batches, part_of
from ..diffusion.schedule import inversion_plan
from .exemplar import ColorizeResult, check_colorize, colorize
from .exemplar_inversion import Inverter, ReferencePair, at_rest, color_layers, one_working_size
from .exemplar_references import References, inverted, inverting_calls, simplified
from .exemplar_settings import ColorizeSettings
from .host import Host


def colorize_in_batches(
    host: Host,
    inputs: Tensor,
    reference: Tensor | References | None,
    settings: ColorizeSettings,
    *,
    prepared: ReferencePair | None = None,
    source_mask: Tensor | None = None,
    reference_mask: Tensor | None = None,
    fallback: Tensor | None = None,
    expect: Callable[[int], None] | None = None,
) -> Iterator[ColorizeResult]:
    """Color pictures, at most ``settings.batch`` at once; a shared reference is inverted once.

    Parameters as for :func:`pipelines.exemplar.colorize`.

    :param expect: called with the number of model calls that are still to come, where that grows.
    :returns: the rounds' results, in order.
    :raises ValueError: pictures, batches or settings that do not fit, before the first round starts.
    :raises RuntimeError: memory runs out on a single picture.
    """
    check_colorize(inputs, reference, prepared, settings, source_mask, reference_mask, fallback)
    reference, reference_mask = simplified(reference, reference_mask, prepared)
    shared = _shared(reference, prepared)
    pair = prepared
    if isinstance(reference, References) and pair is None:
        pair = _inverted(host, inputs, reference, settings, expect)

    def work(part: slice) -> ColorizeResult:
        ready = pair if pair is None or shared else pair.take(range(len(inputs))[part])
        made = colorize(
            host,
            inputs[part],
            _part_of(reference, part),
            settings,
            prepared=ready,
            source_mask=part_of(source_mask, part),
            reference_mask=part_of(reference_mask, part),
            fallback=part_of(fallback, part),
        )
        # the next rounds need the memory; a shared reference serves them
        return replace(
            made, source=at_rest(made.source), reference=made.reference if shared else made.reference.at_rest()
        )

    def fewer(first: int, at_once: int) -> None:
        if expect is not None:
            left = slice(first, None)
            ready = pair if pair is None or shared else pair.take(range(len(inputs))[left])
            fewer_at_once = replace(settings, batch=at_once)
            expect(calls_in_batches(host, inputs[left], _part_of(reference, left), fewer_at_once, ready))

    for _, result in in_batches(len(inputs), settings.batch, work, host.out_of_memory, fewer):
        if shared:
            pair = result.reference
        yield result
        del result  # its features may be as much as the next round needs


def calls_in_batches(
    host: Host,
    inputs: Tensor,
    reference: Tensor | References | None,
    settings: ColorizeSettings,
    prepared: ReferencePair | None = None,
) -> int:
    """How many model calls :func:`colorize_in_batches` makes while memory lasts, for progress bars.

    :raises ValueError: there is no reference.
    """
    check_colorize(inputs, reference, prepared, settings)
    reference, _ = simplified(reference, None, prepared)
    rounds, ready = -(-len(inputs) // settings.batch), prepared is not None
    if isinstance(reference, References):
        before = 0 if ready else inverting_calls(reference, settings)
        return before + rounds * settings.model_calls(True)
    one_size = reference is None or ready or one_working_size(host, inputs, reference, settings)
    further = settings.model_calls(ready or _shared(reference, prepared), one_size)
    return settings.model_calls(ready, one_size) + (rounds - 1) * further


def _inverted(
    host: Host,
    inputs: Tensor,
    references: References,
    settings: ColorizeSettings,
    expect: Callable[[int], None] | None,
) -> ReferencePair:
    """References that serve all inputs, inverted before the first round."""
    plan = inversion_plan(host.sigma_table, settings.steps, settings.depth, settings.convention)
    inverter = Inverter(host, plan, color_layers(host.layers, settings.attention.layers), settings)
    after = -(-len(inputs) // settings.batch) * settings.model_calls(True)
    return inverted(inverter, references, None if expect is None else lambda calls: expect(calls + after))


def _part_of(reference: Tensor | References | None, part: slice) -> Tensor | References | None:
    return reference if isinstance(reference, References) else part_of(reference, part)


def joined(results: Iterable[ColorizeResult]) -> ColorizeResult:
    """Rounds as one result, with the inversions of the first one, their features off the device.

    Keeping the features of a hundred frames would fill the memory that they were split to save.
    """
    images, latents, shares = [], [], []
    first: ColorizeResult | None = None
    for result in results:
        first = first or result
        images.append(result.images)
        latents.append(result.latent)
        shares.append(result.from_reference)
        del result  # before the next round begins
    if first is None:
        raise ValueError("There are no pictures to join.")
    from_reference = None if first.from_reference is None else torch.cat(shares)
    reference = first.reference.at_rest()
    source, images = at_rest(first.source), torch.cat(images)
    return ColorizeResult(images, source, reference, torch.cat(latents), from_reference, first.together)


def _shared(reference: Tensor | References | None, prepared: ReferencePair | None) -> bool:
    """Whether one and the same serves all inputs."""
    if isinstance(reference, References):
        return True
    if prepared is not None:
        return prepared.pictures == 1
    return reference is not None and len(reference) == 1
