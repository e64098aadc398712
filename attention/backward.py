"""What a backward pass through a UNet needs, estimated from what the network is made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .layers import LayerInfo

#: Numbers that are kept for a token and a channel of a transformer, and for a latent pixel and a channel of the first
#: level in the residual blocks of all levels. Counted on the whole UNets of Stable Diffusion 1.5 and XL, which they
#: meet to a hundredth, and on one of 32 channels (4 % too many).
_IN_TRANSFORMER, _IN_RESIDUALS = 19, 116

#: At most what part of that is left where every block is computed again: their inputs, and one block at work. Counted
#: there: inputs are a fifth (1.5) and a tenth (XL).
_RECOMPUTED = 1 / 3


def kept_bytes(
    layers: Iterable[LayerInfo],
    channels: int,
    shape: Sequence[int],
    number_bytes: int,
    *,
    recomputed: bool = False,
) -> int:
    """Bytes of activations that one call of a UNet keeps for its backward pass, with fused attention.

    :param layers: with attention, all of them.
    :param channels: of the first level.
    :param shape: (B, C, h, w) of the latents.
    :param number_bytes: of one number, 2 for half precision.
    :param recomputed: whether blocks keep their inputs only.
    """
    rows, _, height, width = shape
    numbers = _IN_RESIDUALS * channels * height * width
    numbers += sum(_IN_TRANSFORMER * info.channels * info.tokens(shape) for info in layers)
    return int(rows * numbers * number_bytes * (_RECOMPUTED if recomputed else 1))
