"""Color the evaluation pairs in one way after another and keep what came out, so that a long run can be resumed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from comfyui_exemplar.attention.dual_settings import DualAttentionSettings
from comfyui_exemplar.color import ab_error, psnr
from comfyui_exemplar.files.output import whole
from comfyui_exemplar.hosts.diffusers.host import DiffusersHost
from comfyui_exemplar.pipelines.exemplar import colorize
from comfyui_exemplar.pipelines.exemplar_inversion import ReferencePair
from comfyui_exemplar.pipelines.exemplar_settings import ColorizeSettings
from comfyui_exemplar.pipelines.memory import color_by_memory, write_references
from comfyui_exemplar.pipelines.memory_features import ModelFeatures
from comfyui_exemplar.pipelines.memory_settings import MemorySettings, WritingSettings

from .baselines import texture_features
from .pairs import EvaluationPairs

BATCH = 8
MATCHING_TIMESTEP = 101


@dataclass(frozen=True)
class Outcome:
    """Of one way of coloring: ``inside`` and ``whole`` mean distance in (a, b), Lab units, and PSNR in dB; (n,)."""

    inside: Tensor
    whole: Tensor
    psnr: Tensor

    @classmethod
    def of(cls, pictures: Tensor, pairs: EvaluationPairs) -> Outcome:
        return cls(
            ab_error(pictures, pairs.truth, pairs.mask), ab_error(pictures, pairs.truth), psnr(pictures, pairs.truth)
        )


def prepare_references(host: DiffusersHost, pairs: EvaluationPairs, settings: ColorizeSettings) -> list[ReferencePair]:
    """The references of each batch, inverted once with everything that any choice of γ and β needs."""
    everything = replace(settings, passes=1, attention=DualAttentionSettings(0.5, 0.5, 0.5, 0.5))
    return [colorize(host, part.gray, part.reference, everything).reference for part in _batches(pairs, "references")]


def color_pairs(
    host: DiffusersHost, pairs: EvaluationPairs, settings: ColorizeSettings, prepared: list[ReferencePair], name: str
) -> Tensor:
    """Colored pictures (n, H, W, 3)."""
    found = []
    for part, reference in zip(_batches(pairs, name), prepared, strict=True):
        found.append(colorize(host, part.gray, part.reference, settings, prepared=reference).images)
    return torch.cat(found)


def color_pairs_by_memory(host: DiffusersHost, pairs: EvaluationPairs) -> tuple[Tensor, Tensor]:
    """Colored pictures (n, H, W, 3) and how sure the memory is (n, H, W): each reference a memory, with the model's
    own settings."""
    chosen = host.model.recommended.get("memory", {})
    asking, writing = MemorySettings.resolve(chosen), WritingSettings.resolve(chosen)
    network = ModelFeatures(host, asking.features)
    pictures, sure = [], []
    for i in tqdm(range(len(pairs.names)), desc="color memory", leave=False):
        part = pairs.take(slice(i, i + 1))
        memory = write_references(network, part.reference, writing)
        result = color_by_memory(network, part.gray, memory, asking)
        pictures.append(result.images)
        sure.append(result.confidence)
    return torch.cat(pictures), torch.cat(sure)


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Spearman's, of two tensors of any one shape; ties in the order in which they stand."""
    ranks = [values.flatten().argsort(stable=True).argsort().double() for values in (one, other)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def kept(path: Path, make) -> Tensor:
    """Pictures kept as 8-bit numbers at ``path``; made and written if they are not there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as beside:
            np.save(beside, (make() * 255).round().clamp(0, 255).byte().numpy())
    return torch.from_numpy(np.load(path)).float() / 255


@torch.no_grad()
def matching(host: DiffusersHost, pairs: EvaluationPairs, settings: ColorizeSettings) -> dict[str, float]:
    """Share of the input's tokens inside a thing whose best match in the reference lies in the same thing.

    Only pairs of two things count, and only tokens inside things are candidates, so chance is about one half. One
    number for each injected layer (attention of the gray input on the gray reference at timestep 101, heads averaged),
    and one for luminance and texture.
    """
    two = pairs.take(pairs.count == 2)
    everything = replace(settings, passes=1, guidance=1.0, attention=DualAttentionSettings(0.5, 0.5, 0.5, 0.5))
    sigma = float(host.sigma_table[MATCHING_TIMESTEP])
    hits: dict[str, list[float]] = {}
    for part in _batches(two, "matching"):
        result = colorize(host, part.gray, part.reference, everything)
        asked, answering = result.source.bank, result.reference.gray.bank
        for layer in asked.layers:
            if not all(bank.has(bank.nearest(sigma), layer, p) for bank, p in ((asked, "q"), (answering, "k"))):
                continue
            q = asked.get(asked.nearest(sigma), layer, "q").float()
            k = answering.get(answering.nearest(sigma), layer, "k").float()
            heads = next(info.heads for info in host.layers if info.layer == layer)
            q, k = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k))
            weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1).mean(1)
            grid = asked.grid(layer)
            here, there = (things_at(things, grid) for things in (part.things, part.reference_things))
            best = weights.masked_fill((there < 0)[:, None], -1).argmax(-1)
            right = torch.gather(there, 1, best) == here
            hits.setdefault(f"{layer.name} ({grid[0]} x {grid[1]})", []).extend(right_shares(right, here))
    texture = []
    for i in range(len(two.names)):
        here, there = two.things[i].flatten(), two.reference_things[i].flatten()
        wanted, known = texture_features(two.gray[i], two.reference[i])
        candidates = torch.nonzero(there >= 0)[:, 0]
        best = candidates[torch.cdist(wanted, known[candidates]).argmin(1)]
        texture += right_shares((there[best] == here)[None], here[None])
    hits["luminance and texture"] = texture
    return {name: float(np.mean(values)) for name, values in hits.items()}


def right_shares(right: Tensor, things: Tensor) -> list[float]:
    """Of every thing of every picture, the share of its tokens that are right; (n, N) each."""
    return [
        float(row[inside].float().mean())
        for row, ids in zip(right, things, strict=True)
        for thing in (0, 1)
        if int((inside := ids == thing).sum()) >= 4
    ]


def things_at(things: Tensor, grid: tuple[int, int]) -> Tensor:
    """Things (n, H, W) at the centers of tokens -> (n, N)."""
    steps = [size // count for size, count in zip(things.shape[1:], grid, strict=True)]
    return things[:, steps[0] // 2 :: steps[0], steps[1] // 2 :: steps[1]].flatten(1)


def _batches(pairs: EvaluationPairs, name: str):
    for start in tqdm(range(0, len(pairs.names), BATCH), desc=name, leave=False):
        yield pairs.take(slice(start, start + BATCH))
