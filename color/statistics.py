"""Transfer of mean and standard deviation: latents (AdaIN) and chroma."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

# Lab units. A gray picture shows a spread below 0.005 (rounding of the color matrix), one 8-bit level of real color
# 0.3 or more; stretching the former to a reference's spread would color the picture by its rounding errors.
_CONSTANT_CHROMA = 0.05


def match_mean_std(
    x: torch.Tensor,
    reference: torch.Tensor,
    dims: int | tuple[int, ...],
    strength: float = 1.0,
    unbiased: bool = False,
    smallest_std: float = 0.0,
) -> torch.Tensor:
    """Give ``x`` the mean and standard deviation of ``reference``.

    ``(x - mean(x)) / std(x) * std(reference) + mean(reference)``, without an epsilon. A constant channel has no
    deviation to scale, and dividing by 0 turns it into NaN (quirk Q4 of the published program of Kosugi 2025, arXiv
    2505.15812: its picture turns cyan-blue); here only the mean of such a channel moves.

    :param x: any shape, floating point.
    :param reference: as many axes as ``x``; over ``dims`` any size, elsewhere the size of ``x`` or 1.
    :param dims: the axes that the statistics run over.
    :param strength: 1 matches, 0 returns ``x`` itself, between is interpolated.
    :param unbiased: divide by n - 1 instead of n. The deviation of a single value counts as 0.
    :param smallest_std: a channel with no more than this counts as constant, and so does rounding noise around its
        mean.
    :returns: Shape, dtype and device of ``x``.
    :raises ValueError: when the axes outside ``dims`` do not fit.
    """
    _check_statistics(x, reference, dims)
    if strength == 0:
        return x
    dtype = torch.promote_types(x.dtype, torch.float32)
    target = _mean_std(reference.to(x.device, dtype), dims, unbiased)
    return _matched(x, target, dims, strength, unbiased, smallest_std)


def _matched(
    x: torch.Tensor,
    target: tuple[torch.Tensor, torch.Tensor],
    dims: int | tuple[int, ...],
    strength: float,
    unbiased: bool,
    smallest_std: float,
) -> torch.Tensor:
    """``x`` with a mean and a deviation, which broadcast against it."""
    work = x.to(torch.promote_types(x.dtype, torch.float32))
    mean, std = _mean_std(work, dims, unbiased)
    target_mean, target_std = target
    constant = std <= (1e-6 * mean.abs()).clamp(min=smallest_std)
    ratio = torch.where(constant, 1.0, target_std / torch.where(constant, 1.0, std))
    matched = (work - mean) * ratio + target_mean
    if strength != 1:
        matched = work + strength * (matched - work)
    return matched.to(x.dtype)


def match_chroma_statistics(
    chroma: torch.Tensor, reference_chroma: torch.Tensor, strength: float = 1.0
) -> torch.Tensor:
    """Give a and b of each picture the mean and (population) standard deviation of a reference's.

    The float form of the Lab step of Kosugi 2025 (arXiv 2505.15812).

    :param chroma: ``(B, H, W, 2)``, a and b in Lab units.
    :param reference_chroma: ``(B or 1, h, w, 2)``.
    :param strength: 1 matches, 0 returns ``chroma`` itself.
    :returns: Shape, dtype and device of ``chroma``; a channel of nearly no spread (a gray picture) only has its mean
        moved.
    :raises ValueError: when channels or batches do not fit.
    """
    return match_mean_std(chroma, reference_chroma, (1, 2), strength, smallest_std=_CONSTANT_CHROMA)


def adain(latent: torch.Tensor, style: torch.Tensor, strength: float = 1.0) -> torch.Tensor:
    """Adaptive instance normalization of latents: each channel takes the mean and deviation of the style's.

    Kosugi 2025 (arXiv 2505.15812) starts sampling from this: latent the inverted gray photo, style the inverted
    reference. Unbiased deviation, no epsilon. The published program, which has one picture a batch, takes the
    statistics over batch and space; here every picture has its own.

    :param latent: ``(B, C, H, W)`` (further spatial axes are allowed).
    :param style: ``(B or 1, C, h, w)``, any size.
    :param strength: 1 matches, 0 returns ``latent`` itself.
    :returns: Shape, dtype and device of ``latent``; of a constant channel only the mean moves.
    :raises ValueError: when axes, channels or batches do not fit.
    """
    return match_mean_std(latent, style, tuple(range(2, latent.ndim)), strength, unbiased=True)


@dataclass(frozen=True)
class Moments:
    """Statistics of several pictures at once.

    :param mean: (C,), of each channel; ``std`` (C,), the standard deviation.
    """

    mean: torch.Tensor
    std: torch.Tensor


def pooled_moments(samples: Sequence[torch.Tensor], masses: Sequence[float], unbiased: bool = False) -> Moments:
    """Mean and standard deviation over several pictures, each of which counts as much as its mass, whatever its size.

    The variance is the mean of the pictures' own ones and the spread of their means, so that the same picture twice has
    the statistics that it has once.

    :param samples: ``(n, C)`` each, at least one value.
    :param masses: one each, 0 or more, not all 0.
    :param unbiased: divide by n - 1 within each picture. The deviation of a single value counts as 0.
    """
    total = sum(masses)
    shares = [mass / total for mass in masses]
    each = [_mean_std(values.float(), 0, unbiased) for values in samples]
    means, stds = (torch.cat([pair[at].cpu() for pair in each]) for at in (0, 1))
    share = torch.tensor(shares)[:, None]
    mean = (share * means).sum(0)
    variance = (share * (stds.square() + (means - mean).square())).sum(0)
    return Moments(mean, variance.sqrt())


def match_chroma_moments(chroma: torch.Tensor, moments: Moments, strength: float = 1.0) -> torch.Tensor:
    """:func:`match_chroma_statistics` with known moments: ``(B, H, W, 2)`` -> the same."""
    if strength == 0:
        return chroma
    target = (moments.mean.to(chroma.device), moments.std.to(chroma.device))
    return _matched(chroma, target, (1, 2), strength, False, _CONSTANT_CHROMA)


def adain_moments(latent: torch.Tensor, moments: Moments, strength: float = 1.0) -> torch.Tensor:
    """:func:`adain` with known moments: ``(B, C, H, W)`` -> the same."""
    if strength == 0:
        return latent
    target = (moments.mean.to(latent.device)[:, None, None], moments.std.to(latent.device)[:, None, None])
    return _matched(latent, target, (2, 3), strength, True, 0.0)


def _mean_std(x: torch.Tensor, dims: int | tuple[int, ...], unbiased: bool) -> tuple[torch.Tensor, torch.Tensor]:
    axes = (dims,) if isinstance(dims, int) else dims
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    std, mean = torch.std_mean(x, axes, correction=1 if unbiased and count > 1 else 0, keepdim=True)
    return mean, std


def _check_statistics(x: torch.Tensor, reference: torch.Tensor, dims: int | tuple[int, ...]) -> None:
    over = {axis % x.ndim for axis in ((dims,) if isinstance(dims, int) else dims)}
    fits = x.ndim == reference.ndim and all(
        axis in over or size in (1, x.shape[axis]) for axis, size in enumerate(reference.shape)
    )
    if not fits or not over:
        raise ValueError(
            f"Statistics do not fit: found {tuple(x.shape)} and a reference of {tuple(reference.shape)}, expected the "
            f"same number of axes and, outside of axes {sorted(over)}, the same sizes or 1 in the reference. Use a "
            "reference with as many channels, and one picture or as many as the batch has."
        )
