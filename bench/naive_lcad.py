"""Instance-aware sampling as the paper's program schedules it, written without any economy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from comfyui_exemplar.attention.call import CROSS, SELF, AttentionCall
from comfyui_exemplar.attention.instances import official_grid
from comfyui_exemplar.diffusion.sampling import guide
from comfyui_exemplar.hosts.diffusers.denoiser import UNetDenoiser


class StoredMaps:
    """Attention with its map built: keeps the logits of one call of the network and uses them in the next."""

    def __init__(self) -> None:
        self.logits: dict[tuple, Tensor] = {}
        self.grids: dict[tuple, tuple[int, int]] = {}

    def __call__(self, call: AttentionCall, _earlier: Callable) -> Tensor:
        q, k, v = (t.unflatten(-1, (call.heads, -1)).transpose(1, 2) for t in (call.q, call.k, call.v))
        key = (call.layer, call.kind)
        logits = self.logits.pop(key, None)
        if logits is None:
            logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
            self.logits[key], self.grids[key] = logits, call.grid
        return (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)


def naive_instances(
    denoiser: UNetDenoiser, weight: float, phrases: Sequence[tuple[int, ...]], masks: Tensor, size: int
) -> Callable[[Tensor, Tensor], Tensor]:
    """``denoiser(x, sigma) -> x0``: two calls a branch, the step by autograd.

    :param masks: (phrases, H, W).
    """
    layers = [info.layer for info in denoiser.layers]

    def step(maps: StoredMaps) -> None:
        for key, logits in maps.logits.items():
            if key[1] != CROSS:
                continue
            with torch.enable_grad():
                watched = logits.detach().requires_grad_()
                loss = torch.zeros(())
                for places, mask in zip(phrases, masks, strict=True):
                    target = official_grid(mask[None], (size, size), maps.grids[key]).float().reshape(1, 1, -1, 1)
                    own = watched[..., list(places)].sigmoid()
                    loss = loss + F.binary_cross_entropy(own, target.to(own).expand_as(own))
                loss.backward()
            maps.logits[key] = logits - watched.grad

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        predicted = {}
        for branch in (1, 0):
            maps = StoredMaps()
            with denoiser.edited(maps, layers, (SELF, CROSS)):
                denoiser(x, sigma, (branch,))
                if branch == 0:
                    step(maps)
                predicted[branch] = denoiser(x, sigma, (branch,))
        return guide(predicted[0], predicted[1], weight)

    return denoise
