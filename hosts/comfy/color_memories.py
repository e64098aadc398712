"""Color memories on ComfyUI: what looks at pictures, and coloring by what was written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ...attention.families import EVERY, UNET
from ...attention.token_masks import check_reference_mask
from ...attention.union import leaves_any
from ...color import check_count, check_masks, desaturate
from ...color.batches import part_of
from ...memory.entries import ColorMemory, Made
from ...memory.features import FeatureSource
from ...pipelines.exemplar_references import References
from ...pipelines.memory import (
    MemoryResult,
    color_in_batches,
    joined_results,
    merged_memories,
    write_references,
)
from ...pipelines.memory_features import BatchedFeatures, ModelFeatures, PictureFeatures, ReadBeside, as_written
from ...pipelines.memory_settings import FeatureSettings, MemorySettings, WritingSettings
from .conditioning import check_conditioning
from .empty_prompt import need_prompt, prompt_or_empty
from .encoders import features_of, memory_recommended
from .families.found import require_network
from .fits import check_vae
from .host import ComfyHost
from .memory import out_of_memory
from .model import context_width, file_name

#: What stands where an inversion would be; ComfyUI tells it where something waits for one.
NO_INVERSION = ExecutionBlocker("Exemplar Colorize makes no inversions with method memory; set method to attention.")
#: Most pictures that are read in one model call where the user says nothing of it.
AT_ONCE = 8


@dataclass(frozen=True)
class Looking:
    """What looks at pictures: a MODEL with its VAE and prompt, or a CLIP_VISION; see :func:`looking`, which makes it.

    :param network: MODEL or CLIP_VISION.
    :param host: of a MODEL; None for a CLIP_VISION.
    :param node: display name of the asking node.
    """

    network: Any
    host: ComfyHost | None
    node: str

    @property
    def recommended(self) -> Mapping[str, Any]:
        """What it recommends for color memories."""
        return memory_recommended(self.network, self.node)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.network.load_device

    def features(self, settings: FeatureSettings, memory: ColorMemory | None = None) -> FeatureSource:
        """A source of features.

        :param memory: that is to be asked: pictures are looked at as those were that it was written from.
        :raises ValueError: layers or a timestep that it does not have, or a memory of another model.
        """
        if self.host is None:
            return features_of(self.network, settings, memory=memory, node=self.node)
        if memory is not None and memory.made is not None:
            own = Made(self.host.fingerprint, memory.made.spaces, memory.made.context, file_name(self.network))
            memory.made.check(own)
            settings = as_written(settings, memory, self.host)
        return ModelFeatures(self.host, settings, file_name(self.network))

    def asking(self, memory: ColorMemory | None = None, settings: MemorySettings | None = None) -> dict[str, Any]:
        """``network``, ``asking`` and ``device`` for a flow that asks a memory.

        :param memory: that is to be asked, see :meth:`features`.
        :param settings: None is as the network recommends.
        :raises ValueError: a memory of another model.
        """
        settings = settings or MemorySettings.resolve(self.recommended)
        source = self.features(settings.features, memory)
        return {"network": source, "asking": _as_written(settings, memory), "device": self.device}

    def batched(
        self, settings: FeatureSettings, on_pictures: Callable[[int], None], at_once: int = AT_ONCE
    ) -> BatchedFeatures:
        """A source of features that takes as many pictures at once as memory allows."""
        return BatchedFeatures(self.features(settings), at_once, out_of_memory, on_pictures)


def looking(network: Any, vae: Any, conditioning: list | None, node: str, clip: Any = None) -> Looking:
    """A MODEL with its VAE, or a CLIP_VISION, looked at before any work.

    :param vae: with ``conditioning`` of a MODEL; a CLIP_VISION needs neither.
    :param conditioning: what the model is told; None for the empty prompt, by ``clip`` or the MODEL's own; without
        either for nothing at all.
    :param node: display name of the asking node.
    :raises ValueError: a model of another family, or a VAE or prompt that does not fit it.
    """
    if hasattr(network, "encode_image"):
        memory_recommended(network, node)  # of a kind that is known
        return Looking(network, None, node)
    known = require_network(network, node, EVERY)
    if vae is None:
        raise ValueError("vae: found nothing, expected the VAE of the MODEL; connect it from the same loader.")
    check_vae(vae, network, node)
    asked = prompt_or_empty if known.family is UNET else partial(need_prompt, node=node)
    conditioning = asked(conditioning, clip, network)
    if conditioning is None:
        width = context_width(network) or 1
        conditioning = [[torch.zeros(1, 77, width), {"pooled_output": torch.zeros(1, 1280)}]]
    check_conditioning(conditioning, node, model=network, pictures=1)
    return Looking(network, ComfyHost(network, conditioning, vae, name=node), node)


def colored(
    network: Looking,
    image: Tensor,
    memory: ColorMemory,
    settings: MemorySettings,
    *,
    mask: Tensor | None = None,
    fallback: Tensor | None = None,
    features: PictureFeatures | None = None,
) -> Iterator[MemoryResult]:
    """Pictures colored by a memory, some at a time.

    :param image: (B, H, W, 3) in 0..1.
    :param features: of the same pictures; then the network is not run.
    :raises ValueError: a memory, masks, features or pictures that do not fit.
    """
    source = network.features(settings.features, memory) if features is None else features
    kept = None if features is None else features.features(desaturate(image))
    yield from color_in_batches(
        source,
        image,
        memory,
        _as_written(settings, memory),
        out_of_memory,
        mask=mask,
        fallback=fallback,
        features=kept,
        device=network.device,
    )


def colored_by_references(
    network: Looking,
    image: Tensor,
    known: Tensor | None,
    memory: ColorMemory | None,
    settings: MemorySettings,
    *,
    mask: Tensor | None,
    reference_mask: Tensor | None,
    fallback: Tensor | None,
    weights: tuple[float, ...] | None,
    on_pictures: Callable[[int, Tensor | None], None],
) -> MemoryResult:
    """Pictures colored by references (one for all, one each, or all for every one), by a memory, or by both.

    A picture and its reference are read in one model call where that sees them at one size.

    :param known: (1 or B, H, W, 3) in 0..1, any number with ``weights``; None for none.
    :param memory: counts beside the references; None for none.
    :param reference_mask: (1 or references, *, *), what of them counts: above one half. Where all serve every picture,
        one with nothing there leaves its reference out.
    :param weights: of references that all serve every picture, () for all alike; None where there is one for each.
    :param on_pictures: called with how many references and pictures are done of all of them, and the last one that was
        colored, (H, W, 3), or None.
    :raises ValueError: what does not fit, before any model call.
    """
    settings, source = _as_written(settings, memory), network.features(settings.features, memory)
    if memory is not None and memory.made is not None:
        memory.made.check(Made(source.fingerprint, source.spaces, settings.features.context, source.name))
    check_masks(mask, len(image), "mask")
    if fallback is not None:
        check_count(len(fallback), len(image), "fallback")
    given = None if known is None else _Given.checked(known, reference_mask, weights, len(image))
    parts, done = [], 0 if given is None else len(known) - len(given.pictures)
    for group in given.groups(len(image)) if given is not None else [slice(0, len(image))]:
        inputs, asked, kept = image[group], memory, None
        if given is not None:
            some, read = given.of(group), done
            both = ReadBeside(
                source,
                desaturate(inputs),
                min(AT_ONCE, settings.batch),
                out_of_memory,
                lambda count, read=read: on_pictures(read + count, None),
            )
            asked = write_references(
                both,
                some.pictures,
                WritingSettings(settings.features),
                masks=some.masks,
                weights=some.weights or (),
                beside_others=memory is not None,
            )
            asked = merged_memories({"memory": memory, "reference": asked}) if memory is not None else asked
            kept, done = both.kept, done + len(some.pictures)
        each = {"mask": part_of(mask, group), "fallback": part_of(fallback, group), "features": kept}
        for part in color_in_batches(source, inputs, asked, settings, out_of_memory, device=network.device, **each):
            parts.append(part)
            done += len(part.images)
            on_pictures(done, part.images[-1])
    return joined_results(parts)


@dataclass(frozen=True)
class _Given:
    """References that count.

    :param pictures: (n, H, W, 3) in 0..1.
    :param masks: (1 or n, *, *) of 0 and 1, or None.
    :param weights: where all serve every picture, () for all alike; None where there is one for all, or one for each.
    """

    pictures: Tensor
    masks: Tensor | None
    weights: tuple[float, ...] | None

    @classmethod
    def checked(cls, known: Tensor, masks: Tensor | None, weights: tuple[float, ...] | None, pictures: int) -> _Given:
        """As :func:`colored_by_references` takes them.

        :param pictures: how many are to be colored.
        :raises ValueError: numbers that do not fit, or masks that leave nothing.
        """
        if weights is None:
            check_count(len(known), pictures, "reference")
            masks = check_masks(masks, len(known), "reference_mask")
            if masks is not None:
                check_reference_mask(masks)
            return cls(known, _binary(masks), None)
        given = References.of(known, masks, weights)
        each = given.masks or (None,) * len(known)
        left = [i for i, mask in enumerate(each) if mask is None or leaves_any(mask)]
        some = [mask for mask in each if mask is not None and leaves_any(mask)]
        numbers = tuple(given.weights[i] for i in left) if given.weights else ()
        return cls(known[left], _binary(torch.cat(some)) if some else None, numbers)

    def groups(self, pictures: int) -> list[slice]:
        """Pictures that are colored by one and the same."""
        if self.weights is None and len(self.pictures) > 1:
            return [slice(i, i + 1) for i in range(pictures)]
        return [slice(0, pictures)]

    def of(self, group: slice) -> _Given:
        """What colors a group of pictures."""
        if self.weights is not None:
            return self
        return _Given(part_of(self.pictures, group), part_of(self.masks, group), None)


def _binary(masks: Tensor | None) -> Tensor | None:
    return None if masks is None else (masks > 0.5).float()


def _as_written(settings: MemorySettings, memory: ColorMemory | None) -> MemorySettings:
    """As a memory wants to be asked."""
    if memory is None or memory.made is None:
        return settings
    return replace(settings, features=replace(settings.features, context=memory.made.context))
