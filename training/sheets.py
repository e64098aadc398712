"""Pictures of how training goes: what prompts give."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from comfyui_exemplar.files.saving import save_image
from comfyui_exemplar.networks.embedded.autoencoder import LinearAutoencoder

from .model import SCHEDULE, Net, signal_levels

PROMPTS = (
    "red apple",
    "flamingo",
    "banana",
    "dog face",
    "automobile",
    "sunflower",
    "blue heart",
    "hamburger",
    "evergreen tree",
    "tropical fish",
    "grinning face",
    "purple apple",
)


@torch.no_grad()
def draw(net: Net, captions: list[str], size: int, *, steps: int = 20, guidance: float = 4.0, seed: int = 0) -> Tensor:
    """Latents (n, 4, size, size) for captions: DDIM with classifier-free guidance, size in latent pixels."""
    device = next(net.parameters()).device
    latents = torch.randn(len(captions), 4, size, size, generator=torch.Generator().manual_seed(seed)).to(device)
    levels = signal_levels().to(device)
    times = torch.linspace(SCHEDULE["steps"] - 1, 0, steps + 1).round().long()
    for now, after in pairwise(times):
        t = torch.full((2 * len(captions),), int(now), device=device)
        words, plain = net(latents.repeat(2, 1, 1, 1), t, captions + [""] * len(captions)).float().chunk(2)
        v = plain + guidance * (words - plain)
        a, b = levels[now], levels[after]
        clean = a.sqrt() * latents - (1 - a).sqrt() * v
        noise = (1 - a).sqrt() * latents + a.sqrt() * v
        latents = b.sqrt() * clean + (1 - b).sqrt() * noise
    return clean


def words_sheet(
    net: Net, autoencoder: LinearAutoencoder, path: Path, size: int, prompts: tuple[str, ...] = PROMPTS
) -> None:
    """Two rows of pictures, one for each prompt."""
    device = next(net.parameters()).device
    pictures = autoencoder.to(device).decode(draw(net, list(prompts), size // autoencoder.factor))
    pixels = ((pictures + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu()
    half = (len(pixels) + 1) // 2
    rows = [torch.cat(list(row), 1) for row in (pixels[:half], pixels[half:])]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(Image.fromarray(torch.cat(rows, 0).numpy()), path)
