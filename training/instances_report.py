"""What masks do to the embedded L-CAD: how much of a phrase's color lies inside its mask, and on the other thing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from comfyui_exemplar.attention.instances import InstanceSettings
from comfyui_exemplar.color import luminance, luminance_to_rgb, rgb_to_lab
from comfyui_exemplar.hosts.diffusers.lcad import DiffusersLCAD, load_lcad
from comfyui_exemplar.pipelines.lcad import LCADSettings, describe

from .drawings import Drawings
from .lcad_report import ASKED, SEED
from .recoloring import COLOR_WORDS
from .scenes import Scenes

OFFICIAL = InstanceSettings(step="official", schedule="official")
#: How scenes are colored: settings, and whether each phrase gets its own thing's mask or the other one's.
WAYS = {
    "no masks": (None, False),
    "published step": (OFFICIAL, False),
    "normalized step": (InstanceSettings(), False),
    "crossed masks, published step": (OFFICIAL, True),
    "crossed masks, normalized step": (InstanceSettings(), True),
}


@torch.no_grad()
def evaluate_instances(
    folder: Path, model: Path, *, scenes: int = 6, size: int = 96, steps: int = 10
) -> dict[str, tuple[float, float]]:
    """Color compositions of two things under "red apple, blue house", with each way of using their masks.

    :returns: for each of :data:`WAYS`, of the color inside a phrase's mask the share that is the phrase's, and of the
        color on the other thing the share that is; weighted with chroma, by hue among ASKED (chance 0.2). Without masks
        a phrase's mask is the thing that it names.
    """
    host = load_lcad(model)
    drawn = Scenes(Drawings.load(folder / "drawings.npz"), seed=SEED)
    pictures, ids, names = drawn.core_scenes(np.full(scenes, 2), size)
    gray = luminance_to_rgb(luminance(pictures.movedim(1, -1)))
    random = np.random.default_rng(SEED)
    colors = [random.choice(ASKED, 2, replace=False) for _ in range(scenes)]
    found = {}
    for way, (settings, crossed) in WAYS.items():
        shares = []
        for i in tqdm(range(scenes), desc=way, leave=False):
            phrases = [f"{colors[i][j]} {names[i][j]}" for j in range(2)]
            masks = [(ids[i : i + 1] == (1 - j if crossed else j)).float() for j in range(2)]
            shown = describe_with_masks(host, gray[i : i + 1], phrases, masks, settings, steps)
            hues = [hue_share(shown, colors[i][j]) for j in range(2)]
            shares += [(share_in(*hues[j], masks[j]), share_in(*hues[j], masks[1 - j])) for j in range(2)]
        found[way] = tuple(np.nanmean(shares, axis=0).tolist())
    return found


def describe_with_masks(
    host: DiffusersLCAD,
    gray: Tensor,
    phrases: list[str],
    masks: list[Tensor],
    drawing: InstanceSettings | None,
    steps: int,
) -> Tensor:
    """(1, S, S, 3) gray in 0..1 -> a picture of the same size, the decoder's own; ``drawing`` None leaves masks out."""
    side = gray.shape[1]
    settings = LCADSettings.resolve(host.recommended, steps=steps, resolution=side, exact_luminance=0.0, seed=SEED)
    regions = list(zip(phrases, masks, strict=True)) if drawing else []
    return describe(host, gray, ", ".join(phrases), settings, regions=regions, drawing=drawing)


def hue_share(picture: Tensor, word: str) -> tuple[Tensor, Tensor]:
    """(H, W) chroma of a picture (1, H, W, 3), and the part of it whose hue is nearest to a word's."""
    ab = rgb_to_lab(picture)[0, ..., 1:]
    words = rgb_to_lab(torch.tensor([COLOR_WORDS[name] for name in ASKED]).view(1, 1, -1, 3))[0, 0, :, 1:]
    chroma = ab.norm(dim=-1)
    nearest = F.cosine_similarity(ab.unsqueeze(-2), words, dim=-1).argmax(-1)
    return chroma, chroma * (nearest == ASKED.index(word))


def share_in(chroma: Tensor, part: Tensor, mask: Tensor) -> float:
    """How much of a masked place's color is a word's; NaN for a place without any."""
    whole = float((chroma * mask[0]).sum())
    return float((part * mask[0]).sum()) / whole if whole else float("nan")
