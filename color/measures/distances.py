"""Frechet distances of what a network sees: of two sets of pictures (FID) and of two pictures (SI-FID).

The features come from outside, so that any network will do. The distance of two normal distributions is
|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Dowson and Landau 1982; Heusel et al., NIPS 2017, arXiv 1706.08500).
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Rows of features that are in float64 at once.
_ROWS = 2**14


def frechet_distance(one: Tensor, other: Tensor) -> float:
    """FID of two sets of features.

    The trace of the root is the sum of singular values of A B^T, with A and B the centered features over the roots of
    n - 1: exact where there are fewer pictures than features, where roots of the singular covariances are not.

    :param one: ``(n, d)``, a row for each picture, n at least 2; ``other`` ``(m, d)``.
    :returns: 0 or more; it grows for small sets, so that only sets of equal size compare.
    :raises ValueError: fewer than two rows, or other shapes.
    """
    for name, features in (("first", one), ("second", other)):
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(
                f"frechet_distance: found {tuple(features.shape)} as {name} features, expected (n, d) with n of at "
                "least 2; give two pictures or more."
            )
    if one.shape[1] != other.shape[1]:
        raise ValueError(
            f"frechet_distance: found {one.shape[1]} and {other.shape[1]} features a picture, expected as many; take "
            "them from the same layer."
        )
    if min(len(one), len(other)) >= one.shape[1]:
        return moments_distance(*_moments(one), *_moments(other))
    means, centered = [], []
    for features in (one, other):
        values = features.detach().cpu().double()
        means.append(values.mean(0))
        centered.append((values - means[-1]) / (len(values) - 1) ** 0.5)
    root = torch.linalg.svdvals(centered[0] @ centered[1].T).sum()
    traces = centered[0].square().sum() + centered[1].square().sum()
    return max(0.0, float((means[0] - means[1]).square().sum() + traces - 2 * root))


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``(d,)`` and covariance ``(d, d)`` in float64, some rows at a time, since there is one for each place."""
    mean = torch.stack([part.cpu().double().sum(0) for part in features.detach().split(_ROWS)]).sum(0) / len(features)
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for part in features.detach().split(_ROWS):
        centered = part.cpu().double() - mean
        covariance += centered.T @ centered
    return mean, covariance / (len(features) - 1)


def moments_distance(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> float:
    """The same from means ``(d,)`` and covariances ``(d, d)``: tr (C1 C2)^(1/2) is that of C1^(1/2) C2 C1^(1/2)."""
    values, vectors = torch.linalg.eigh(covariance.double())
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    crossed = torch.linalg.eigvalsh(root @ other_covariance.double() @ root).clamp_min(0).sqrt().sum()
    step = (mean - other_mean).double().square().sum()
    return max(0.0, float(step + covariance.trace() + other_covariance.trace() - 2 * crossed))


def single_image_distance(one: Tensor, other: Tensor) -> float:
    """Single Image FID of Shaham et al., *SinGAN*, ICCV 2019, arXiv 1905.01164: statistics over a picture's places.

    :param one: ``(d, h, w)``, features of a picture before the second pooling, a vector for each place; ``other``
        ``(d, h', w')`` of the other picture.
    :returns: 0 or more.
    :raises ValueError: other shapes.
    """
    places = []
    for features in (one, other):
        if features.ndim != 3:
            raise ValueError(
                f"single_image_distance: found {tuple(features.shape)}, expected (d, h, w), a picture's features; take "
                "them without the batch's axis."
            )
        places.append(features.flatten(1).T)
    return frechet_distance(*places)


def single_image_distance_as_exemplar(one: Tensor, other: Tensor) -> float:
    """SI-FID as the program of Kosugi 2025 (arXiv 2505.15812) computes it, with the numpy that its table was made with.

    It averages each picture's features to a single vector first, so that there is nothing left over places. What it
    then asks numpy's ``cov`` for is the covariance of one sample: below numpy 2.2 that is the variance of the vector's
    numbers *among themselves*, a scalar, and from 2.2 on a matrix of NaN (and no distance at all). The former made the
    published table: |v1 - v2|^2 + s1 + s2 - 2 (s1 s2)^(1/2).

    :param one: ``(d, h, w)``, features of a picture after the first pooling; ``other`` the same of the other picture.
    :returns: 0 or more.
    :raises ValueError: other shapes.
    """
    if one.ndim != 3 or other.ndim != 3 or len(one) != len(other) or len(one) < 2:
        raise ValueError(
            f"single_image_distance_as_exemplar: found {tuple(one.shape)} and {tuple(other.shape)}, expected (d, h, w) "
            "each with the same d of at least 2; take features of the same layer."
        )
    # The mean is the network's float32, what follows is float64.
    first, second = (features.detach().float().mean((1, 2)).cpu().double() for features in (one, other))
    spreads = (first.var(), second.var())
    root = (spreads[0] * spreads[1]).sqrt()
    return max(0.0, float((first - second).square().sum() + spreads[0] + spreads[1] - 2 * root))
