"""What exemplar colorization is measured against: no color, one tint, and matching by luminance and texture."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from comfyui_exemplar.color import lab_to_rgb, match_chroma_statistics, rgb_to_lab

WINDOW, SAMPLES = 5, 1200
#: Below this a spread counts as this much.
_LEAST = 1e-6


def tint(gray: Tensor, reference: Tensor) -> Tensor:
    """Statistics transfer: mean and deviation of the reference's (a, b).

    A gray picture has no deviation of its own, so what is left is one tint. Pictures (n, H, W, 3) in 0..1.
    """
    return with_chroma(gray, match_chroma_statistics(*(rgb_to_lab(p)[..., 1:] for p in (gray, reference))))


def match_luminance(gray: Tensor, reference: Tensor, seed: int = 0) -> Tensor:
    """Color each pixel like the reference's pixel of the most similar luminance and local deviation of luminance.

    Welsh, Ashikhmin and Mueller 2002 ("Transferring color to grayscale images"), with the reference's luminance first
    brought to the input's mean and deviation, over SAMPLES random pixels of the reference.
    """
    chroma = []
    for one, other in zip(gray, reference, strict=True):
        wanted, known = texture_features(one, other)
        chosen = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))[:SAMPLES]
        match = chosen[torch.cdist(wanted, known[chosen]).argmin(1)]
        chroma.append(rgb_to_lab(other[None])[0, ..., 1:].flatten(0, 1)[match].reshape(*one.shape[:2], 2))
    return with_chroma(gray, torch.stack(chroma))


def texture_features(gray: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """(H W, 2) of the input and of the reference, (H, W, 3) each: luminance and its deviation in a window."""
    wanted, known = rgb_to_lab(gray[None])[..., 0], rgb_to_lab(reference[None])[..., 0]
    known = (known - known.mean()) / (known.std() + 1e-3) * wanted.std() + wanted.mean()
    return _features(wanted), _features(known)


def _features(luminance: Tensor) -> Tensor:
    """(1, H, W) -> (H W, 2): luminance and its deviation in a window."""
    reach = WINDOW // 2
    padded = F.pad(luminance[None], (reach,) * 4, mode="reflect")
    mean, square = (F.avg_pool2d(p, WINDOW, 1)[0] for p in (padded, padded.square()))
    deviation = (square - mean.square()).clamp(min=0).sqrt()
    return torch.stack([luminance, deviation], -1).flatten(0, 2)


def with_chroma(gray: Tensor, chroma: Tensor) -> Tensor:
    """Luminance of one picture, (a, b) of another."""
    return lab_to_rgb(torch.cat([rgb_to_lab(gray)[..., :1], chroma], -1))


def reinhard(gray: Tensor, reference: Tensor) -> Tensor:
    """Mean and deviation of the reference's L, a and b.

    Reinhard, Ashikhmin, Gooch and Shirley 2001 ("Color transfer between images"), in CIE Lab. Lightness changes too.
    """
    lab, wanted = (rgb_to_lab(p) for p in (gray, reference))
    (spread, mean), (other_spread, other_mean) = (
        torch.std_mean(p, (1, 2), correction=0, keepdim=True) for p in (lab, wanted)
    )
    return lab_to_rgb((lab - mean) / spread.clamp_min(_LEAST) * other_spread + other_mean)


def monge_kantorovich(gray: Tensor, reference: Tensor) -> Tensor:
    """The linear map of Lab that gives the reference's mean and covariance with the least change.

    Pitié and Kokaram 2007 ("The linear Monge-Kantorovitch linear colour mapping for example-based colour transfer").
    """
    found = []
    for one, other in zip(gray, reference, strict=True):
        lab, wanted = (rgb_to_lab(p[None])[0].flatten(0, 1).double() for p in (one, other))
        root, inverse = _roots(torch.cov(lab.T, correction=0))
        middle, _ = _roots(root @ torch.cov(wanted.T, correction=0) @ root)
        mapped = (lab - lab.mean(0)) @ (inverse @ middle @ inverse) + wanted.mean(0)
        found.append(lab_to_rgb(mapped.float().reshape(1, *one.shape))[0])
    return torch.stack(found)


def match_histogram(gray: Tensor, reference: Tensor, bins: int = 256) -> Tensor:
    """Each channel of RGB with the reference's histogram, as in any textbook: a gray picture is colored by levels."""
    found = gray.clone()
    for picture, other in zip(found, reference, strict=True):
        for channel in range(3):
            levels = (picture[..., channel] * (bins - 1)).long()
            shares = [
                torch.bincount(values.flatten(), minlength=bins).double().cumsum(0) / values.numel()
                for values in (levels, (other[..., channel] * (bins - 1)).long())
            ]
            table = torch.searchsorted(shares[1], shares[0]).clamp_max(bins - 1).float() / (bins - 1)
            picture[..., channel] = table[levels]
    return found


def _roots(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Its root, and the root's inverse."""
    values, vectors = torch.linalg.eigh(covariance)
    lengths = values.clamp_min(0).sqrt()
    return (vectors * lengths) @ vectors.T, (vectors / lengths.clamp_min(_LEAST)) @ vectors.T
