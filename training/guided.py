"""Train a gray encoder and a guided decoder for the embedded model's linear autoencoder (L-CAD's first stage).

The linear autoencoder keeps two numbers of lightness for 16 pixels, so pictures come back soft. The gray picture has
what is missing. The architecture is L-CAD's (networks/lcad/model.py) at small size and without norms; the linear
decoder still gives the colors, from chroma alone, and the network adds the rest. Latents are disturbed while it is
trained, because those that it will be given come from sampling: structure is to be taken from the gray picture.
"""

from __future__ import annotations

import json
import math
import re
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from comfyui_exemplar.color import color_ghosting, luminance, luminance_to_rgb, psnr
from comfyui_exemplar.files.ldm import part
from comfyui_exemplar.files.output import whole
from comfyui_exemplar.networks.embedded.autoencoder import LinearAutoencoder
from comfyui_exemplar.networks.lcad.load import read_lcad
from comfyui_exemplar.networks.lcad.model import (
    COLOR_CHANNELS,
    GrayEncoder,
    GuidedDecoder,
    LCADAutoencoder,
    LCADSizes,
    ResidualBlock,
)

from .autoencoder import YCBCR
from .drawings import Drawings
from .resumable import Resumable, stage_at
from .scenes import Scenes
from .unet import load_photographs
from .words import load_exported

SIZES = LCADSizes(widths=(16, 32, 64), blocks=1, groups=0)
WARM_UP, LAST_SHARE, EMA = 50, 0.02, 0.99
PICTURES, CROPS, CROP = 4, 1, 64
LUMA_WEIGHT, PROBE_WEIGHT = 2.0, 0.3
CHROMA_WEIGHT, EDGE_WEIGHT = 2.0, 8.0


@dataclass(frozen=True)
class Stage:
    """:param colors: the encoder stays as it is (the UNet is trained on its last map), and the decoder learns to keep
    colors within their edges."""

    steps: int
    rate: float
    colors: bool


STAGES = (Stage(1000, 2e-3, False), Stage(900, 1e-3, True))
STEPS = sum(stage.steps for stage in STAGES)

#: Layers of the encoder whose result only the decoder sees.
_EMITS = re.compile(r"zero_conv(?!_mid2)")
_EXPORTED = "guided.safetensors"
#: Largest deviation of the noise on latents, whose own deviation is 1.
NOISE = 0.3


class Trainer(Resumable):
    """Everything that a checkpoint holds.

    ``net.probe`` reads the latent's lightness from the map that the UNet gets, to see to it that it is in there; it is
    not kept.
    """

    def __init__(self, folder: Path, autoencoder: LinearAutoencoder, seed: int) -> None:
        self.checkpoint = folder / "guided.pt"
        torch.manual_seed(seed)
        net = new_network(autoencoder)
        net.probe = nn.Conv2d(SIZES.features, 2, 1)
        self.net = net
        self.optimizer = torch.optim.AdamW(net.parameters(), betas=(0.9, 0.99), weight_decay=1e-3, fused=True)
        self.average = {name: value.clone() for name, value in net.state_dict().items()}
        self.step = 0

    def update(self, loss: Tensor) -> None:
        stage = stage_at(STAGES, self.step)
        done = self.step - sum(before.steps for before in STAGES[: STAGES.index(stage)])
        cosine = 0.5 * (1 + math.cos(math.pi * done / stage.steps))
        rate = stage.rate * min(1, (done + 1) / WARM_UP) * (LAST_SHARE + (1 - LAST_SHARE) * cosine)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        loss.backward()
        if stage.colors:
            for name, parameter in self.net.named_parameters():
                if name.startswith(("encoder.", "probe.")) and not _EMITS.search(name):
                    parameter.grad = None
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        keep = min(EMA, self.step / (self.step + 20))
        current = self.net.state_dict()
        torch._foreach_lerp_([self.average[name] for name in current], list(current.values()), 1 - keep)


def new_network(autoencoder: LinearAutoencoder) -> LCADAutoencoder:
    """A network to start from, in which a linear map of the last layer's input already explains 98 % of what is wanted.

    With the library's start (and norms in groups of four) it was 7 %, and 300 steps taught nothing.
    """
    net = LCADAutoencoder(GrayEncoder(SIZES), GuidedDecoder(SIZES), autoencoder)
    with torch.no_grad():
        first = net.encoder.conv_in  # luminance is about -0.45, and varies by a fifth
        first.weight *= 4
        first.bias.copy_(0.45 * first.weight.sum((1, 2, 3)))
        for module in net.modules():
            if isinstance(module, ResidualBlock):  # what comes in goes on
                module.conv2.weight *= 0.1
                module.conv2.bias.zero_()
        for name, weight in net.encoder.named_parameters():
            if "zero_conv" in name and name.endswith("weight"):
                weight *= 1.7
        net.decoder.conv_out.weight.zero_()
        net.decoder.conv_out.bias.zero_()
    return net


def guided_loss(
    net: LCADAutoencoder, pictures: Tensor, generator: torch.Generator, colors: bool
) -> tuple[Tensor, dict[str, float]]:
    """One step's loss for pictures (n, 3, S, S) in 0..1: distance in RGB, once more in luma, and the probe's.

    With ``colors`` also in chroma, and in the steps of chroma from pixel to pixel.
    """
    latents = net.base.encode(pictures * 2 - 1)
    noise = torch.rand(len(pictures), 1, 1, 1, generator=generator) * NOISE
    noise = noise * (torch.rand(len(pictures), 1, 1, 1, generator=generator) < 0.7)
    if colors:  # which colors there are is in the latent alone
        noise = noise * torch.tensor([1 - each for each in COLOR_CHANNELS])[:, None, None]
    disturbed = latents + noise * torch.randn(latents.shape, generator=generator)
    maps = net.encode(pictures.movedim(1, -1))
    found = net(disturbed, maps)
    difference = found - (pictures * 2 - 1)
    wrong = torch.einsum("oc,nchw->nohw", torch.tensor(YCBCR), difference)
    luma, chroma = wrong[:, 0].abs().mean(), wrong[:, 1:].abs().mean()
    probe = F.mse_loss(net.probe(maps[-1]), latents[:, [0, 3]])
    edges = wrong[:, 1:].diff(dim=-1).abs().mean() + wrong[:, 1:].diff(dim=-2).abs().mean()
    total = difference.abs().mean() + LUMA_WEIGHT * luma + PROBE_WEIGHT * probe
    if colors:
        total = total + CHROMA_WEIGHT * chroma + EDGE_WEIGHT * edges
    return total, {"luma": luma.item(), "chroma": chroma.item(), "edges": edges.item(), "probe": probe.item()}


def crops(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """CROPS squares of each picture, at places that keep the grid of latents."""
    last = (pictures.shape[-1] - CROP) // SIZES.factor
    found = []
    for _ in range(CROPS):
        y, x = (int(torch.randint(last + 1, (), generator=generator)) * SIZES.factor for _ in range(2))
        found.append(pictures[..., y : y + CROP, x : x + CROP])
    return torch.cat(found)


def train(folder: Path, model: Path, *, seed: int, threads: int | None = None) -> None:
    """Train to the end, from the folder's checkpoint if there is one. Writes ``guided.pt`` and ``guided.jsonl``.

    :param model: the embedded model, whose autoencoder it is. (One fitted anew is another one: its detail can have
        either sign.)
    """
    if threads:
        torch.set_num_threads(threads)
    trainer = Trainer(folder, load_exported(model)[1], seed)
    if trainer.checkpoint.exists():
        trainer.resume()
    scenes = Scenes(Drawings.load(folder / "drawings.npz"), load_photographs(folder, "train"), seed=seed + trainer.step)
    generator = torch.Generator().manual_seed(seed + trainer.step)
    means: dict[str, float] = {}
    started = time.monotonic()
    with tqdm(total=STEPS, initial=trainer.step, desc="guided", mininterval=5) as progress:
        while trainer.step < STEPS:
            pictures = scenes.vivid(PICTURES, 2 * CROP)
            colors = stage_at(STAGES, trainer.step).colors
            loss, parts = guided_loss(trainer.net, crops(pictures, generator), generator, colors)
            trainer.update(loss)
            for name, value in parts.items():
                means[name] = means.get(name, value) * 0.98 + value * 0.02
            progress.update()
            if trainer.step % 25 == 0:
                row = {"step": trainer.step, "seconds": round(time.monotonic() - started)}
                row |= {name: round(value, 5) for name, value in means.items()}
                with (folder / "guided.jsonl").open("a") as log:
                    log.write(json.dumps(row) + "\n")
            if trainer.step % 100 == 0 or trainer.step == STEPS:
                trainer.save()


def averaged(folder: Path) -> LCADAutoencoder:
    """The trained encoder and decoder with the averaged weights.

    :raises FileNotFoundError: nothing was trained.
    """
    path = folder / "guided.pt"
    if path.exists():
        weights = torch.load(path, map_location="cpu", weights_only=True)["average"]
    elif (folder / _EXPORTED).exists():
        weights = load_file(folder / _EXPORTED)
    else:
        raise FileNotFoundError(f"{path} is missing: run `python -m training guided` first.")
    ours = {name: value for name, value in weights.items() if not name.startswith("probe.")}
    base = LinearAutoencoder.from_state_dict(part(ours, "base."))
    net = LCADAutoencoder(GrayEncoder(SIZES), GuidedDecoder(SIZES), base)
    net.load_state_dict(ours)
    return net.eval().requires_grad_(False)


def keep_exported(lcad: Path, folder: Path) -> None:
    """An exported L-CAD's gray encoder and decoder become the folder's, in place of a checkpoint that is lost."""
    with whole(folder / _EXPORTED) as beside:
        save_file(read_lcad(lcad).autoencoder.state_dict(), beside)


@torch.no_grad()
def evaluate(net: LCADAutoencoder, pictures: Tensor) -> dict[str, dict[str, float]]:
    """Structure and ghosting of decoded pictures (n, 3, S, S) in 0..1, by the plain decode and by ours.

    ``structure``: PSNR in dB of lightness (L / 100) against the gray input, before any merge. ``ghosting``: see
    ``color.color_ghosting``, whose value for the pictures themselves stands beside.
    """
    shown = pictures.movedim(1, -1)
    gray = luminance_to_rgb(luminance(shown))
    latents = net.base.encode(pictures * 2 - 1)
    plain = (net.base.decode(latents) / 2 + 0.5).movedim(1, -1)
    guided = net.decode(latents, net.encode(gray))
    return {
        name: {"structure": structure(picture, gray), "ghosting": float(color_ghosting(picture, gray).mean())}
        for name, picture in (("plain decode", plain), ("guided decode", guided), ("truth", shown))
    }


def structure(picture: Tensor, gray: Tensor) -> float:
    """Mean PSNR in dB of lightness, pictures (n, H, W, 3) in 0..1."""
    found, wanted = (luminance(each)[..., None] / 100 for each in (picture, gray))
    return float(psnr(found, wanted).clamp(max=99).mean())


def held_out(folder: Path, count: int = 48, size: int = 128) -> tuple[Tensor, Tensor]:
    """Drawings and photographs that nothing was trained on: (n, 3, size, size) in 0..1 each, fixed by a seed."""
    drawings = Drawings.load(folder / "drawings.npz")
    drawn = Scenes(drawings, splits=("dev", "test"), seed=5).colored(count, size)
    photographs = load_photographs(folder, "test").float() / 255
    return drawn, F.interpolate(photographs, (size, size), mode="bilinear", antialias=True)
