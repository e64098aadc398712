"""Names of attention layers, and the small language that selects them.

A layer is named as ComfyUI names its blocks: ``output.8`` is the transformer in the ninth decoder block. Where a block
holds a stack of transformers (SDXL), ``output.3`` means the whole stack and ``output.3.1`` its second member.

Layers are chosen by what they are (encoder, middle, decoder; how coarse), so that one preset serves every UNet:

==============  =====================================================================================================
``color``       the two finest decoder resolutions that have attention. On SD 1.x these are ``output.6-11``, the layers
                of Kosugi 2025 (arXiv 2505.15812); on SDXL ``output.0-5``
``fine``        the finest of the two ("shallow" in the paper)
``coarse``      the other one ("deep" in the paper)
``decoder``     every decoder layer; likewise ``encoder``, ``middle`` and ``all``
``match``       where things are matched in one pass: of the coarser of these two resolutions the last block, of
                the finest the first two, of a stack its last member. On SD 1.x ``output.8-10``
``semantic``    where DEADiff (arXiv 2403.06951) listens to semantics: the coarsest encoder resolution that has
                attention, the middle, and the coarsest decoder resolution but for its last block, from which the
                picture grows. On SD 1.x ``input.7-8``, ``middle.0`` and ``output.3-4``
==============  =====================================================================================================

Transformers have one resolution: ``double.7`` is the eighth block whose prompt and picture have weights of their own,
``single.3`` the fourth of those where they share them (Flux's two kinds), ``block.5`` one where the prompt is attended
to apart. Their presets go by depth, in network order:

==============  =====================================================================================================
``match``       three layers around the middle, where meaning is and the picture is not yet drawn
``color``       the middle half
``early``       the first third; likewise ``middle``, ``late`` and ``all``
==============  =====================================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod

UNET_BLOCKS = ("input", "middle", "output")

BLOCKS = (*UNET_BLOCKS, "double", "single", "block")


@dataclass(frozen=True, order=True)
class Layer:
    """One transformer: its block (one of ``BLOCKS``), the block's index, its place in the stack."""

    block: str
    index: int
    depth: int = 0

    @property
    def name(self) -> str:
        """As users write it: ``output.8``, or ``output.8.1`` for the second of a stack."""
        return f"{self.block}.{self.index}" + (f".{self.depth}" if self.depth else "")

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class LayerInfo:
    """A layer of a loaded model: width in channels, heads, downscale relative to the latent (1, 2, 4, ...).

    A transformer's downscale is the side of its patches.
    """

    layer: Layer
    channels: int
    heads: int
    downscale: int

    def grid(self, size: Sequence[int]) -> tuple[int, int]:
        """(height, width) of its tokens for latents of a size (..., h, w): every halving rounds up."""
        height, width = size[-2:]
        return -(-height // self.downscale), -(-width // self.downscale)

    def tokens(self, size: Sequence[int]) -> int:
        """How many those are."""
        return prod(self.grid(size))


def decoder_resolutions(infos: Iterable[LayerInfo]) -> list[int]:
    """Downscales at which the decoder has attention, finest first."""
    return sorted({info.downscale for info in infos if info.layer.block == "output"})


def is_shallow(info: LayerInfo, infos: Iterable[LayerInfo]) -> bool:
    """Whether a layer belongs to the paper's shallow group: the finest decoder resolution that has attention.

    The published program asks instead whether the layer is 320 channels wide, which is the same set on SD 1.x only.
    """
    return info.downscale <= min(decoder_resolutions(infos), default=0)


def select_layers(expression: str, infos: Sequence[LayerInfo]) -> tuple[LayerInfo, ...]:
    """Layers that an expression names, in network order.

    :param expression: presets (see the module's text) and ranges, joined by commas: ``color``, ``output.6-11``,
        ``output.4,7,9,11``, ``middle, output.3.0-1``. A bare number or range goes on with the block named before it.
    :param infos: the model's layers.
    :raises ValueError: an unknown word, or a term that matches no layer; the message lists the layers there are.
    """
    presets = _PRESETS if any(info.layer.block in UNET_BLOCKS for info in infos) else _TRANSFORMER_PRESETS
    chosen: set[Layer] = set()
    block = None
    terms = [term for term in re.split(r"[,\s]+", expression.strip().lower()) if term]
    if not terms:
        raise ValueError(f"No layers named. Use a preset such as 'color', or {_available(infos)}.")
    for term in terms:
        if term in presets:
            matches, block = presets[term](infos), None
        else:
            match = re.fullmatch(rf"(?:({'|'.join(BLOCKS)})\.)?(\d+)(?:-(\d+))?(?:\.(\d+)(?:-(\d+))?)?", term)
            block = match and (match[1] or block)
            if match is None or block is None:
                raise ValueError(
                    f"'{term}' names no layers. Use {', '.join(presets)}, or ranges such as {_example(infos)}; this "
                    f"model has {_available(infos)}."
                )
            matches = _in_range(infos, block, *match.groups()[1:])
        if not matches:
            raise ValueError(f"'{term}' matches no attention layer of this model, which has {_available(infos)}.")
        chosen.update(info.layer for info in matches)
    return tuple(info for info in infos if info.layer in chosen)


def _in_range(
    infos: Sequence[LayerInfo],
    block: str,
    first: str,
    last: str | None,
    depth_first: str | None,
    depth_last: str | None,
) -> list[LayerInfo]:
    indices = range(int(first), int(last or first) + 1)
    depths = None if depth_first is None else range(int(depth_first), int(depth_last or depth_first) + 1)
    return [
        info
        for info in infos
        if info.layer.block == block and info.layer.index in indices and (depths is None or info.layer.depth in depths)
    ]


def _decoder_levels(infos: Sequence[LayerInfo], levels: slice) -> list[LayerInfo]:
    scales = decoder_resolutions(infos)[levels]
    return [info for info in infos if info.layer.block == "output" and info.downscale in scales]


def _match(infos: Sequence[LayerInfo]) -> list[LayerInfo]:
    fine, coarse = (_last_of_stacks(_decoder_levels(infos, slice(at, at + 1))) for at in (0, 1))
    return [*coarse[-1:], *fine[:2]]


def _last_of_stacks(infos: Sequence[LayerInfo]) -> list[LayerInfo]:
    return list({info.layer.index: info for info in infos}.values())


def _semantic(infos: Sequence[LayerInfo]) -> list[LayerInfo]:
    chosen = []
    for block in UNET_BLOCKS:
        members = [info for info in infos if info.layer.block == block]
        coarsest = [info for info in members if info.downscale == max(other.downscale for other in members)]
        last = max((info.layer.index for info in coarsest), default=None) if block == "output" else None
        chosen += [info for info in coarsest if info.layer.index != last]
    return chosen


_PRESETS = {
    "color": lambda infos: _decoder_levels(infos, slice(0, 2)),
    "fine": lambda infos: _decoder_levels(infos, slice(0, 1)),
    "coarse": lambda infos: _decoder_levels(infos, slice(1, 2)),
    "decoder": lambda infos: [info for info in infos if info.layer.block == "output"],
    "encoder": lambda infos: [info for info in infos if info.layer.block == "input"],
    "middle": lambda infos: [info for info in infos if info.layer.block == "middle"],
    "all": lambda infos: list(infos),
    "match": _match,
    "semantic": _semantic,
}


def _by_depth(first: float, last: float) -> Callable[[Sequence[LayerInfo]], list[LayerInfo]]:
    """Layers between two shares of the depth."""
    return lambda infos: list(infos[round(first * len(infos)) : round(last * len(infos))])


def _around_middle(infos: Sequence[LayerInfo]) -> list[LayerInfo]:
    return [infos[at] for at in sorted({int(share * (len(infos) - 1) + 0.5) for share in (0.4, 0.5, 0.6)})]


_TRANSFORMER_PRESETS = {
    "match": _around_middle,
    "color": _by_depth(0.25, 0.75),
    "early": _by_depth(0.0, 1 / 3),
    "middle": _by_depth(1 / 3, 2 / 3),
    "late": _by_depth(2 / 3, 1.0),
    "all": lambda infos: list(infos),
}


def _example(infos: Sequence[LayerInfo]) -> str:
    """A range as the messages show it."""
    block = infos[-1].layer.block if infos else "output"
    return "'output.6-11'" if block == "output" else f"'{block}.2-3'"


def _available(infos: Sequence[LayerInfo]) -> str:
    parts = []
    for block in BLOCKS:
        indices = sorted({info.layer.index for info in infos if info.layer.block == block})
        if indices:
            parts.append(f"{block}.{','.join(map(str, indices))}")
    return "; ".join(parts) or "no attention layer at all"
