"""What the network is taught: noise of gray and colored pictures, coloring across a pair, and where to look.

Four streams go through the UNet side by side at one timestep: I (gray A), G (gray B), R (B in color) and X, which is to
become A in color while its decoder attends to R. The network predicts v = √ᾱ ε - √(1-ᾱ) x₀ (Salimans and Ho 2022, as
Stable Diffusion 2 does): predicting ε, a network as small as this one spends its training on copying the noise at high
levels, and draws nothing from words. I, G and R are ordinary denoising. So the weights are an ordinary
diffusion model whose decoder attention has also been trained *across* pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from comfyui_exemplar.networks.embedded.autoencoder import LinearAutoencoder

from .autoencoder import YCBCR
from .model import Net
from .scenes import BACKGROUND, Pairs, View

WARP_WEIGHT, MATCH_WEIGHT = 2.0, 0.5
# Of a thing's half width: how close a token must come to the same place on the same drawing, and the least for a grid
# of so many tokens a side, which is about one token on a middling thing.
_NEAR, _NEAR_TOKENS = 0.09, 3.0


@dataclass(frozen=True)
class Losses:
    total: Tensor
    parts: dict[str, float]


@dataclass(frozen=True)
class Words:
    """Noised latents (m, 4, h, w) of single drawings, their timesteps (m,), captions and what to predict for them."""

    noised: Tensor
    timesteps: Tensor
    captions: list[str]
    targets: Tensor


def words_to_predict(
    autoencoder: LinearAutoencoder, levels: Tensor, singles: tuple[Tensor, list[str]], generator: torch.Generator
) -> Words:
    """Mostly at high noise: what words decide is decided above timestep 650 or so, and the pairs see to the rest."""
    pictures, captions = singles
    device, count = pictures.device, len(pictures)

    def uniform() -> Tensor:
        return torch.rand(count, generator=generator)

    latents = autoencoder.encode(pictures * 2 - 1)
    timesteps = torch.where(uniform() < 0.85, 600 + uniform() * 400, uniform() * 1000).long().to(device)
    a = levels[timesteps][:, None, None, None]
    noise = torch.randn(latents.shape, generator=generator).to(device)
    captions = ["" if float(drop) < 0.12 else caption for drop, caption in zip(uniform(), captions, strict=True)]
    noised = a.sqrt() * latents + (1 - a).sqrt() * noise
    return Words(noised, timesteps, captions, a.sqrt() * noise - (1 - a).sqrt() * latents)


def words_loss(
    net: Net,
    autoencoder: LinearAutoencoder,
    levels: Tensor,
    singles: tuple[Tensor, list[str]],
    generator: torch.Generator,
) -> Losses:
    """One step's loss from singles alone: beside even one pair, whose losses vary much more, Adam takes small steps on
    words."""
    words = words_to_predict(autoencoder, levels, singles, generator)
    single = (net(words.noised, words.timesteps, words.captions) - words.targets).square().mean()
    return Losses(single, {"single": single.item()})


def training_loss(
    net: Net,
    autoencoder: LinearAutoencoder,
    levels: Tensor,
    pairs: Pairs,
    singles: tuple[Tensor, list[str]] | None,
    generator: torch.Generator,
) -> Losses:
    """One step's loss. ``singles``, if any: pictures (m, 3, S, S) in 0..1 and their captions."""
    device = pairs.a.pictures.device
    n, size = len(pairs.captions), pairs.a.pictures.shape[-1]

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).to(device)

    def chance(share: float) -> bool:
        return float(uniform(1)) < share

    color_a, gray_a = encoded(autoencoder, pairs.a.pictures)
    color_b, gray_b = encoded(autoencoder, pairs.b.pictures)
    words = words_to_predict(autoencoder, levels, singles, generator) if singles else None

    early = uniform(n) < 0.85  # the method works at low noise
    t_pairs = torch.where(early, uniform(n) * 400, uniform(n) * 1000).long()
    a = levels[t_pairs][:, None, None, None]
    signal, sigma = a.sqrt(), (1 - a).sqrt()
    noise = torch.randn(4, *color_a.shape, generator=generator).to(device)
    together = (uniform(n) < 0.5)[:, None, None, None]
    noise[3] = torch.where(together, noise[0], noise[3])  # inversion gives X the noise of I

    streams = [gray_a, gray_b, color_b, _partly_colored(gray_a, color_a, color_b, uniform)]
    noised = [signal * latent + sigma * e for latent, e in zip(streams, noise, strict=True)]
    targets = [signal * e - sigma * latent for latent, e in zip(streams[:3], noise[:3], strict=True)]
    # whatever X is on its way, what is left when its noise is gone shall be A in full color
    target_x = (signal * noised[3] - color_a) / sigma

    captions = [c if not chance(0.5) else "" for c in pairs.captions]
    lesson = net.lesson
    lesson.pairs, lesson.maps = n, []
    lesson.gamma = {level: (0.5, 1.0, float(uniform(1)))[int(uniform(1) * 3)] for level in ("coarse", "fine")}
    latents, timesteps, captions = torch.cat(noised), t_pairs.repeat(4), captions * 4
    if words:
        latents, timesteps = torch.cat([latents, words.noised]), torch.cat([timesteps, words.timesteps])
        captions = captions + words.captions
    predicted = net(latents, timesteps, captions)
    lesson.pairs = 0
    streams_out, singles_out = predicted[: 4 * n].unflatten(0, (4, n)), predicted[4 * n :]

    plain = [(found - target).square().mean() for found, target in zip(streams_out[:3], targets, strict=True)]
    weight = torch.minimum(a, 4 * (1 - a))  # at hardly any noise the target explodes
    colored = (weight * (streams_out[3] - target_x).square()).mean()
    warp, match = matching_loss(lesson.maps, pairs, color_a[:, 1:3], color_b[:, 1:3], size // autoencoder.factor)
    lesson.maps = []
    total = (plain[0] + 0.5 * plain[1] + plain[2]) / 2.5 + 2 * colored
    total = total + WARP_WEIGHT * warp + MATCH_WEIGHT * match
    parts = {"gray": plain[0], "color": plain[2], "colored": colored, "warp": warp, "match": match}
    if words:
        parts["single"] = (singles_out - words.targets).square().mean()
        total = total + parts["single"]
    return Losses(total, {name: value.item() for name, value in parts.items()})


def gray(pictures: Tensor) -> Tensor:
    """(n, 3, H, W) -> the same with three equal channels."""
    luma = torch.tensor(YCBCR[0]).to(pictures)
    return torch.einsum("c,nchw->nhw", luma, pictures)[:, None].expand_as(pictures)


def encoded(autoencoder: LinearAutoencoder, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Latents of pictures (n, 3, H, W) in 0..1, as they are and gray."""
    return autoencoder.encode(pictures * 2 - 1), autoencoder.encode(gray(pictures) * 2 - 1)


def _partly_colored(gray_a: Tensor, color_a: Tensor, color_b: Tensor, uniform) -> Tensor:
    """What X can look like on its way: gray, part of its colors, all of them; half with the reference's statistics."""
    n = len(gray_a)
    kind, part = uniform(n)[:, None, None, None], uniform(n)[:, None, None, None]
    share = torch.where(kind < 0.45, 0.0, torch.where(kind < 0.85, part, 1.0))
    latent = torch.lerp(gray_a, color_a, share)
    mean, std = latent.mean((2, 3), keepdim=True), latent.std((2, 3), keepdim=True) + 1e-3
    matched = (latent - mean) / std * color_b.std((2, 3), keepdim=True) + color_b.mean((2, 3), keepdim=True)
    keep = (uniform(n)[:, None, None, None] < 0.6) | (share == 1)
    return torch.where(keep, latent, matched)


def matching_loss(
    maps: list[Tensor], pairs: Pairs, chroma_a: Tensor, chroma_b: Tensor, side: int
) -> tuple[Tensor, Tensor]:
    """(warp, match), averaged over the injected layers.

    warp: attention carries B's chroma to A, and it must be A's. match: -log of the attention that falls where it
    should: on the same place of the same drawing, on the same thing by another hand, on ground for ground.
    """
    warp = match = torch.zeros((), device=chroma_a.device)
    targets: dict[int, tuple[Tensor, Tensor]] = {}
    for weights in maps:
        tokens = weights.shape[-1]
        here = round(tokens**0.5)
        pooled = [F.avg_pool2d(c, side // here) if here != side else c for c in (chroma_b, chroma_a)]
        source, wanted = (c.flatten(2).transpose(1, 2)[:, None] for c in pooled)
        warp = warp + (weights @ source - wanted).abs().mean() / len(maps)
        if tokens not in targets:
            targets[tokens] = matching_targets(pairs, here)
        where, importance = targets[tokens]
        hit = (weights * where[:, None]).sum(-1)
        loss = -(hit + 1e-3).log() * importance[:, None]
        match = match + loss.sum() / (importance.sum() * weights.shape[1]).clamp(min=1) / len(maps)
    return warp, match


def matching_targets(pairs: Pairs, side: int) -> tuple[Tensor, Tensor]:
    """Where each token of A may look in B, at ``side`` tokens a side.

    Returns (n, N, N) weights in 0..1 and the importance (n, N) of each query; 0 where A's place is not seen in B.
    """
    things_a, places_a = _at_tokens(pairs.a, side)
    things_b, places_b = _at_tokens(pairs.b, side)
    where = (things_a[:, :, None] == things_b[:, None, :]).float()
    exact = torch.gather(pairs.exact, 1, things_a.clamp(min=0)) & (things_a != BACKGROUND)
    distance = torch.cdist(places_a.transpose(1, 2), places_b.transpose(1, 2))
    near = (-distance.square() / (2 * max(_NEAR, _NEAR_TOKENS / side) ** 2)).exp()
    where = torch.where(exact[:, :, None], where * near, where)
    seen = where.amax(-1) > 0.3
    importance = seen * torch.where(things_a == BACKGROUND, 0.25, 1.0)
    return where, importance


def _at_tokens(view: View, side: int) -> tuple[Tensor, Tensor]:
    """Things (n, N) and places (n, 2, N) at the tokens' centers."""
    step = view.things.shape[-1] // side
    things = view.things[:, step // 2 :: step, step // 2 :: step].flatten(1)
    return things, view.places[:, :, step // 2 :: step, step // 2 :: step].flatten(2)
