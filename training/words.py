"""What the model draws from words: every word of its world once, and how often the drawing is nearest to what was
asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from comfyui_exemplar.color import rgb_to_lab
from comfyui_exemplar.files.saving import save_image
from comfyui_exemplar.networks.embedded.autoencoder import LinearAutoencoder

from .drawings import Drawings, world
from .model import Net, signal_levels
from .scenes import PLAIN_HAND
from .sheets import draw

SIZE, STEPS, GUIDANCE, SEED, BATCH = 128, 20, 4.0, 7, 16
TIMESTEPS = (950, 900, 800)
GRID = 16  # cells a side when pictures are compared
COLUMNS = 13


def evaluate_words(model: Path, drawings: Drawings, sheet: Path) -> dict[str, float]:
    """Draw each thing of the world from its name alone and find it among the plain hand's drawings of all of them.

    :param sheet: where a sheet of all drawings (none chosen) is written.
    :returns: share of names whose own drawing is the nearest one (``first``) or one of the five nearest (``first
        five``), by color in Lab on a coarse grid, and the same by silhouette alone; ``chance`` of ``first``; and
        :func:`latent_errors`.
    """
    net, autoencoder = load_exported(model)
    names = sorted(world())
    captions = [name.replace("-", " ") for name in names]
    latents = [
        draw(net, part, SIZE // autoencoder.factor, steps=STEPS, guidance=GUIDANCE, seed=SEED + i * BATCH)
        for i, part in enumerate(tqdm(_in_parts(captions), desc="words", leave=False))
    ]
    drawn = ((autoencoder.decode(torch.cat(latents)) + 1) / 2).clamp(0, 1)
    _sheet(drawn, captions, sheet)
    asked = torch.stack([_on_white(drawings, name) for name in names])
    return retrieval(drawn, asked) | latent_errors(net, autoencoder, asked, captions)


def retrieval(drawn: Tensor, asked: Tensor) -> dict[str, float]:
    """As ``evaluate_words`` returns it, for pictures (n, 3, S, S) in 0..1 in the same order."""
    found: dict[str, float] = {}
    for label, features in (("color", _colors), ("silhouette", _silhouettes)):
        distance = torch.cdist(features(drawn), features(asked))
        place = (distance < distance.diag()[:, None]).sum(1)
        found[f"{label}, first"] = float((place == 0).float().mean())
        found[f"{label}, first five"] = float((place < 5).float().mean())
    return found | {"chance of first": 1 / len(drawn)}


@torch.no_grad()
def latent_errors(net: Net, autoencoder: LinearAutoencoder, asked: Tensor, captions: list[str]) -> dict[str, float]:
    """Mean squared error of the latents (of variance 1) that are predicted for drawings under so much noise that little
    but their words tells what they are.

    :param asked: (n, 3, S, S) in 0..1, what the captions name.
    """
    latents, levels, found = autoencoder.encode(asked * 2 - 1), signal_levels(), {}
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(SEED))
    for timestep in TIMESTEPS:
        signal, sigma = levels[timestep].sqrt(), (1 - levels[timestep]).sqrt()
        noised = signal * latents + sigma * noise
        parts = zip(noised.split(BATCH), _in_parts(captions), strict=True)
        v = torch.cat([net(part, torch.full((len(part),), timestep), words) for part, words in parts])
        found[f"error at {timestep}"] = float((signal * noised - sigma * v - latents).square().mean())
    return found


def _in_parts(captions: list[str]) -> list[list[str]]:
    return [captions[i : i + BATCH] for i in range(0, len(captions), BATCH)]


def load_exported(model: Path) -> tuple[Net, LinearAutoencoder]:
    """The network and the autoencoder of an exported file."""
    tensors = {name: value.float() for name, value in load_file(model).items()}
    ours = {name: value for name, value in tensors.items() if not name.startswith("vae.")}
    net = Net()
    net.load_state_dict(ours)
    rest = {name.removeprefix("vae."): value for name, value in tensors.items() if name.startswith("vae.")}
    return net.eval(), LinearAutoencoder.from_state_dict(rest)


def _on_white(drawings: Drawings, name: str) -> Tensor:
    """(3, S, S) in 0..1, as large as drawings shown alone are on average."""
    row = next(i for i, n in enumerate(drawings.names) if n == name and drawings.hands[i] == PLAIN_HAND)
    picture = torch.from_numpy(drawings.pictures[row]).permute(2, 0, 1).float() / 255
    flat = picture[:3] * picture[3:] + 1 - picture[3:]
    side = round(SIZE * 0.93)
    small = F.interpolate(flat[None], size=(side, side), mode="bilinear", antialias=True)[0]
    before = (SIZE - side) // 2
    after = SIZE - side - before
    return F.pad(small, (before, after, before, after), value=1.0)


def _colors(pictures: Tensor) -> Tensor:
    return rgb_to_lab(F.adaptive_avg_pool2d(pictures, GRID).movedim(1, -1)).flatten(1)


def _silhouettes(pictures: Tensor) -> Tensor:
    """How much of each cell is not white, 0..1."""
    return F.adaptive_avg_pool2d(((1 - pictures.amin(1, keepdim=True)) * 8).clamp(0, 1), GRID).flatten(1)


def _sheet(pictures: Tensor, captions: list[str], path: Path) -> None:
    side, head = pictures.shape[-1], 14
    rows = -(-len(captions) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * side, rows * (side + head)), "white")
    pen = ImageDraw.Draw(sheet)
    pixels = (pictures * 255).round().byte().movedim(1, -1).numpy()
    for i, (picture, caption) in enumerate(zip(np.ascontiguousarray(pixels), captions, strict=True)):
        x, y = i % COLUMNS * side, i // COLUMNS * (side + head)
        pen.text((x + 4, y + 1), caption, fill="black")
        sheet.paste(Image.fromarray(picture), (x, y + head))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(sheet, path, quality=88)
