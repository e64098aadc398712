"""What a LATENT must be: one door for every node that takes one."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ...color import as_mask
from ...color.tensors import FLOATS, check_finite, check_tensor


def as_latents(latent: Any, name: str, *, frames: bool = False) -> Tensor:
    """(B, C, h, w): the samples of a LATENT, with whatever else it carries looked at.

    :param latent: a dictionary with ``samples``; ``noise_mask`` and ``batch_index`` may stand beside them.
    :param name: what the user calls it; messages start with it.
    :param frames: they have an axis of frames, (B, C, 1, h, w), as models that can also draw films want it.
    :raises ValueError: not a picture's latent, or not finite.
    """
    expected = "a LATENT with samples (B, C, h, w)"
    if not isinstance(latent, Mapping):
        found = "nothing" if latent is None else type(latent).__name__
        raise ValueError(f"{name}: found {found}, expected {expected}; look at the node that made it.")
    samples = latent.get("samples")
    check_tensor(samples, name, expected)
    axes = "(B, C, 1, h, w)" if frames else "(B, C, h, w)"
    fits = samples.ndim == 4 + frames and (not frames or samples.shape[2] == 1)
    if not fits or 0 in samples.shape or samples.dtype not in FLOATS:
        raise ValueError(
            f"{name}: found {samples.dtype} of shape {tuple(samples.shape)}, expected a picture's latent, floats "
            f"{axes}; look at the node that made it."
        )
    check_finite(samples, name, "a picture's latent")
    if latent.get("noise_mask") is not None:
        as_mask(latent["noise_mask"], f"{name}: noise_mask")
    _check_numbers(latent.get("batch_index"), len(samples), name)
    return samples


def check_unmasked(latent: Mapping[str, Any], name: str, instead: str) -> None:
    """Whether a LATENT is free of a noise mask, which the node could not heed.

    :param instead: where such a mask belongs, for the message.
    :raises ValueError: it has one that keeps any place.
    """
    noise_mask = latent.get("noise_mask")
    if isinstance(noise_mask, Tensor) and bool((noise_mask < 1).any()):
        raise ValueError(
            f"{name}: found a noise mask (Set Latent Noise Mask, an inpainting latent), expected one without, since "
            f"the whole picture is inverted; take it off, and {instead}."
        )


def _check_numbers(index: Any, count: int, name: str) -> None:
    """:raises ValueError: not the numbers that latents have in the batch that they are of."""
    if index is None:
        return
    if hasattr(index, "tolist"):  # an array or a tensor, which ComfyUI takes as well
        index = index.tolist()
    fine = isinstance(index, Sequence) and not isinstance(index, (str, bytes)) and len(index) == count
    if not fine or not all(isinstance(one, numbers.Integral) for one in index):
        found = f"{len(index)} in a {type(index).__name__}" if hasattr(index, "__len__") else type(index).__name__
        raise ValueError(
            f"{name}: batch_index: found {found}, expected {count} whole number(s), one for each latent; look at the "
            "node that made it."
        )
