"""What the embedded L-CAD does with words: does a thing take the color it is told, and does the other one keep its
own?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor
from tqdm import tqdm

from comfyui_exemplar.color import luminance, luminance_to_rgb, rgb_to_lab
from comfyui_exemplar.diffusion.sampling import sample_ddim
from comfyui_exemplar.diffusion.schedule import sampling_sigmas
from comfyui_exemplar.files.saving import save_image
from comfyui_exemplar.hosts.diffusers.lcad import DiffusersLCAD, LCADDenoiser, load_lcad

from .drawings import SIDE, Drawings
from .recoloring import COLOR_WORDS
from .scenes import Scenes

#: Colors to ask for; their hues are far apart.
ASKED = ("red", "yellow", "green", "blue", "purple")
SCENES, SEED = 12, 91


def evaluate_lcad(folder: Path, model: Path, output: Path) -> dict[str, float]:
    """Describe new compositions of two things of the core three times: one thing in one color, in another, and nothing.

    Writes ``lcad.jpg``, a sheet of all of them (none chosen).

    :returns: ``follows``: share of things whose color is nearest to the word that was said, among :data:`ASKED` (chance
        0.2); ``changed`` and ``other``: mean distance in (a, b) of Lab between the two described pictures, inside the
        thing whose word changed and inside the other one, whose word stayed.
    """
    host = load_lcad(model)
    scenes = Scenes(Drawings.load(folder / "drawings.npz"), seed=SEED)
    pictures, ids, names = scenes.core_scenes(np.full(SCENES, 2), SIDE)
    random = np.random.default_rng(SEED)
    colors = [random.choice(ASKED, 3, replace=False) for _ in range(SCENES)]
    prompts = [
        [
            f"{said} {first}, {other} {second}"
            for (first, second, _), (*both, other) in zip(names, colors, strict=True)
            for said in (both[turn],)
        ]
        for turn in range(2)
    ] + [[""] * SCENES]
    gray = luminance_to_rgb(luminance(pictures.movedim(1, -1)))
    shown = [describe_all(host, gray, each) for each in tqdm(prompts, desc="descriptions")]
    inside = [(ids == j).float() for j in range(2)]
    follows = []
    for turn in range(2):
        for j in range(2):
            said = [color[turn] if j == 0 else color[2] for color in colors]
            follows += [nearest(shown[turn][i], inside[j][i]) == said[i] for i in range(SCENES)]
    distance = (rgb_to_lab(shown[0])[..., 1:] - rgb_to_lab(shown[1])[..., 1:]).norm(dim=-1)
    moved = [float(((distance * mask).sum((1, 2)) / mask.sum((1, 2)).clamp_min(1)).mean()) for mask in inside]
    _sheet(gray, shown, prompts, output / "lcad.jpg")
    return {"follows": float(np.mean(follows)), "changed": moved[0], "other": moved[1]}


@torch.no_grad()
def describe_all(host: DiffusersLCAD, gray: Tensor, prompts: list[str]) -> Tensor:
    """(n, S, S, 3) gray in 0..1 and n prompts -> pictures, the decoder's own, with the recommended settings."""
    maps = host.autoencoder.encode(gray)
    sigmas = sampling_sigmas(host.sigma_table, host.recommended["steps"])
    noise = torch.randn(len(gray), host.channels, *maps[-1].shape[-2:], generator=torch.Generator().manual_seed(SEED))
    texts = {0: torch.cat([host.encode_text(prompt) for prompt in prompts]), 1: host.encode_text("")}
    denoiser = LCADDenoiser(host.model, maps[-1], texts)
    start = noise * float(1 + sigmas[0] ** 2) ** 0.5
    return host.decode(sample_ddim(denoiser.guided(host.recommended["cfg"]), start, sigmas, disable=True), maps)


def nearest(picture: Tensor, mask: Tensor) -> str:
    """Which of ASKED the colors of a thing are nearest to in hue: picture (S, S, 3), mask (S, S)."""
    lab = rgb_to_lab(picture[None])[0][mask > 0.5][:, 1:].mean(0)
    words = rgb_to_lab(torch.tensor([COLOR_WORDS[word] for word in ASKED]).view(1, 1, -1, 3))[0, 0, :, 1:]
    return ASKED[int(F.cosine_similarity(lab[None], words).argmax())]


def _sheet(gray: Tensor, shown: list[Tensor], prompts: list[list[str]], path: Path) -> None:
    side, head, columns = gray.shape[1], 14, 2
    rows = -(-len(gray) // columns)
    sheet = Image.new("RGB", (columns * 4 * side, rows * (side + head)), "white")
    pen = ImageDraw.Draw(sheet)
    for i in range(len(gray)):
        for at, picture in enumerate([gray, *shown]):
            x, y = (i % columns * 4 + at) * side, i // columns * (side + head)
            pen.text((x + 2, y + 1), (prompts[at - 1][i] or "(nothing)") if at else "gray", fill="black", font_size=9)
            sheet.paste(Image.fromarray((picture[i] * 255).round().byte().numpy()), (x, y + head))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(sheet, path, quality=88)
